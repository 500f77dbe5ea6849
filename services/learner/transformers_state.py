"""What a rank of a transformers policy writes into a checkpoint, and how it reads one of any number of ranks.

    rank-0-of-2.pt      this rank's rows of every parameter (fp32 main weights) and moment, and its random state

Another number of ranks joins the rows of all files and cuts them anew; a number that is loaded is bitwise one that the
checkpoint holds. Files are mapped, not read: a rank touches the pages of the tensors it asks for.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from services.learner import checkpoints, muon
from services.learner.fully_sharded import rows, slice_of
from services.learner.settings import LoraSettings, PrecisionSettings
from services.learner.sharded_optimizer import ShardedOptimizer

log = logging.getLogger(__name__)
BACKEND = "transformers"


class TransformersState:
    """`parameters`: all of the model by name, sharded. config: transformers' own, as JSON."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        optimizer: ShardedOptimizer,
        config: Mapping[str, Any],
        precision: PrecisionSettings,
        lora: LoraSettings | None,
    ) -> None:
        self._parameters, self._optimizer = dict(parameters), optimizer
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        shapes = {name: list(p.shape) for name, p in parameters.items()}
        lora_identity = None if lora is None else {**dataclasses.asdict(lora), "targets": [*lora.targets]}
        named = {key: config.get(key) for key in ("architectures", "rope_parameters", "sliding_window")}
        optimizer_identity = muon.identity(optimizer.settings)
        self._model_identity = {"backend": BACKEND, **named, **shapes, **optimizer_identity, "lora": lora_identity}
        self._layout_identity = {"data": self._ranks, "weights": precision.weights}

    def snapshot(self) -> checkpoints.Snapshot:
        """Refers to live memory."""
        state = {
            "weights": {name: slice_of(p) for name, p in self._parameters.items()},
            "optimizer": self._optimizer.state(),
            "rng": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state()
        return checkpoints.Snapshot(
            {_file(self._rank, self._ranks): state}, self._model_identity, self._layout_identity
        )

    def load(self, path: str | Path) -> dict[str, Any]:
        """Restores a checkpoint and returns its `extra`; a collective. Raises as `Policy.load`."""
        manifest = checkpoints.manifest_of(path)
        checkpoints.check_model(path, manifest, self._model_identity)
        if manifest.layout["data"] == self._ranks:
            (state,) = checkpoints.read(path, manifest, [_file(self._rank, self._ranks)])
            pieces = state["optimizer"]["pieces"]
            self._restore(state["optimizer"], state["weights"].__getitem__, lambda name, key: pieces[name][key])
            torch.set_rng_state(state["rng"])
            if torch.cuda.is_available():
                torch.cuda.set_rng_state(state["cuda_rng"])
        else:
            log.info("resharding %s: written by %d ranks, here %d", path, manifest.layout["data"], self._ranks)
            checkpoints.verify(path, manifest)
            whole = _Whole(Path(path), manifest.layout["data"])
            self._restore(whole.counters, lambda name: self._own(whole.weight(name)), self._own_of(whole))
        return manifest.extra

    @torch.no_grad()
    def _restore(self, counters: Mapping[str, Any], weight: Any, moment: Any) -> None:
        for name, parameter in self._parameters.items():
            slice_of(parameter).copy_(weight(name))
        self._optimizer.load_state(counters, moment)

    def _own(self, whole: Tensor) -> Tensor:
        return rows(whole, self._rank, self._ranks)

    def _own_of(self, whole: "_Whole") -> Any:
        return lambda name, key: self._own(whole.moment(name, key))


class _Whole:
    """The whole tensors of a checkpoint of `ranks` ranks."""

    def __init__(self, path: Path, ranks: int) -> None:
        open_ = functools.partial(torch.load, map_location="cpu", weights_only=True, mmap=True)
        self._states = [open_(path / _file(rank, ranks)) for rank in range(ranks)]

    @property
    def counters(self) -> Mapping[str, Any]:
        counters: Mapping[str, Any] = self._states[0]["optimizer"]
        return counters

    def weight(self, name: str) -> Tensor:
        return torch.cat([state["weights"][name] for state in self._states])

    def moment(self, name: str, key: str) -> Tensor:
        return torch.cat([state["optimizer"]["pieces"][name][key] for state in self._states])


def _file(rank: int, ranks: int) -> str:
    return f"rank-{rank}-of-{ranks}.pt"
