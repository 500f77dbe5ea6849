"""What a rank of a transformers policy writes into a checkpoint, and how it reads one of any number of ranks.

    rank-0-of-2.pt      this rank's rows of every parameter (fp32 main weights) and moment, and its random state

Under tensor parallelism they are rows of the rank's part of a matrix. Another layout joins what all files have and cuts
it anew; a number that is loaded is bitwise one that the
checkpoint holds. Files are mapped, not read: a rank touches the pages of the tensors it asks for.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from services.learner.backends.common import adapters
from services.learner.backends.optim import muon
from services.learner.backends.transformers_fsdp.fully_sharded import rows, slice_of
from services.learner.backends.transformers_fsdp.layout import Ranks
from services.learner.backends.transformers_fsdp.optimizer import ShardedOptimizer
from services.learner.backends.transformers_fsdp.tensor_plan import TensorPlan, joined
from services.learner.checkpoints import directory as checkpoints
from services.learner.interface.policy_spec import PolicySpec
from services.learner.interface.snapshot import Snapshot

log = logging.getLogger(__name__)
BACKEND = "transformers"


class TransformersState:
    """`parameters`: all of the model by name, sharded. config: transformers' own, as JSON.

    part: what of a checkpoint this is: "" the main model, or a name that stands in front of its files' (a critic).
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        optimizer: ShardedOptimizer,
        config: Mapping[str, Any],
        spec: PolicySpec,
        ranks: Ranks,
        plan: TensorPlan,
        part: str = "",
    ) -> None:
        self._parameters, self._optimizer = dict(parameters), optimizer
        self._ranks, self._plan, self._part = ranks, plan, part
        self._file = self._name(part)
        shapes = {name: list(p.shape) for name, p in parameters.items()}
        lora = adapters.identity(spec.learner.lora)
        named = {key: config.get(key) for key in ("architectures", "rope_parameters", "sliding_window")}
        optimizer_identity = muon.identity(optimizer.settings)
        self._model_identity = {"backend": BACKEND, **named, **shapes, **optimizer_identity, "lora": lora}
        self._layout_identity = {**ranks.describe(), "weights": spec.dtype}

    def snapshot(self) -> Snapshot:
        """Refers to live memory."""
        state = {
            "weights": {name: slice_of(p) for name, p in self._parameters.items()},
            "optimizer": self._optimizer.state(),
            "rng": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state()
        return Snapshot({self._file: state}, self._model_identity, self._layout_identity)

    def snapshot_of(self, weights: Mapping[str, Tensor], part: str) -> Snapshot:
        """Weights alone, this rank's slices by name, as the file of another part."""
        return Snapshot({self._name(part): {"weights": dict(weights)}}, self._model_identity, self._layout_identity)

    def load_weights(self, path: str | Path, part: str) -> None:
        """What `snapshot_of` gave, into the parameters; a collective. Raises as `Policy.load`."""
        manifest = checkpoints.manifest_of(path)
        checkpoints.check_model(path, manifest, self._model_identity, part)
        data, tensor = manifest.layout["data"], manifest.layout.get("tensor", 1)
        if (data, tensor) == (self._ranks.data, self._ranks.tensor):
            (state,) = checkpoints.read(path, manifest, [self._name(part)])
            self._copy_weights(state["weights"].__getitem__)
        else:
            shapes = {name: p.shape for name, p in self._parameters.items()}
            whole = _Whole(Path(path), data, tensor, part, shapes)
            self._copy_weights(lambda name: self._own(name, whole.weight(name)))

    def load(self, path: str | Path) -> dict[str, Any]:
        """Restores a checkpoint and returns its `extra`; a collective. Raises as `Policy.load`."""
        manifest = checkpoints.manifest_of(path)
        checkpoints.check_model(path, manifest, self._model_identity, self._part)
        data, tensor = manifest.layout["data"], manifest.layout.get("tensor", 1)
        if (data, tensor) == (self._ranks.data, self._ranks.tensor):
            (state,) = checkpoints.read(path, manifest, [self._file])
            pieces = state["optimizer"]["pieces"]
            self._restore(state["optimizer"], state["weights"].__getitem__, lambda name, key: pieces[name][key])
            torch.set_rng_state(state["rng"])
            if torch.cuda.is_available():
                torch.cuda.set_rng_state(state["cuda_rng"])
        else:
            here = f"{self._ranks.data} × {self._ranks.tensor}"
            log.info("resharding %s: written by %d × %d data and tensor ranks, here %s", path, data, tensor, here)
            checkpoints.verify(path, manifest)
            whole = _Whole(
                Path(path), data, tensor, self._part, {name: p.shape for name, p in self._parameters.items()}
            )
            self._restore(
                whole.counters,
                lambda name: self._own(name, whole.weight(name)),
                lambda name, key: self._own(name, whole.moment(name, key)),
            )
        return manifest.extra

    def _restore(self, counters: Mapping[str, Any], weight: Any, moment: Any) -> None:
        self._copy_weights(weight)
        self._optimizer.load_state(counters, moment)

    @torch.no_grad()
    def _copy_weights(self, weight: Callable[[str], Tensor]) -> None:
        for name, parameter in self._parameters.items():
            slice_of(parameter).copy_(weight(name))

    def _name(self, part: str) -> str:
        return _file(dist.get_rank(), dist.get_world_size(), part)

    def _own(self, name: str, whole: Tensor) -> Tensor:
        return rows(self._plan.own(name, whole), self._ranks.data_rank, self._ranks.data)


class _Whole:
    """The whole tensors of a checkpoint of so many data and tensor ranks; shapes: of every parameter."""

    def __init__(self, path: Path, data: int, tensor: int, part: str, shapes: Mapping[str, Sequence[int]]) -> None:
        open_ = functools.partial(torch.load, map_location="cpu", weights_only=True, mmap=True)
        self._states = [open_(path / _file(rank, data * tensor, part)) for rank in range(data * tensor)]
        self._tensor, self._shapes = tensor, shapes

    @property
    def counters(self) -> Mapping[str, Any]:
        counters: Mapping[str, Any] = self._states[0]["optimizer"]
        return counters

    def weight(self, name: str) -> Tensor:
        return self._joined(name, [state["weights"][name] for state in self._states])

    def moment(self, name: str, key: str) -> Tensor:
        return self._joined(name, [state["optimizer"]["pieces"][name][key] for state in self._states])

    def _joined(self, name: str, slices: list[Tensor]) -> Tensor:
        """slices: by rank, so those of one tensor rank are `tensor` apart."""
        return joined([torch.cat(slices[t :: self._tensor]) for t in range(self._tensor)], self._shapes[name])


def _file(rank: int, ranks: int, part: str) -> str:
    return f"{part}{'-' if part else ''}rank-{rank}-of-{ranks}.pt"
