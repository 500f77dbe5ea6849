"""What a rank of a Megatron policy writes into a checkpoint, and how it reads one of any layout.

    model-pp0-tp0.pt        weights, written by the first replica of each model shard
    experts-pp0-ep0.pt      experts of a mixture, written by the first replica of each share of them
    rank-pp0-tp0-dp0.pt     optimizer pieces and random state of every rank

The layout that wrote a checkpoint reads its own files back, exactly. Another one asks `resharding` for whole tensors.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from torch import Tensor

from services.learner.backends.common import adapters
from services.learner.backends.megatron_core import conversion
from services.learner.backends.megatron_core.layout import RankGroups
from services.learner.backends.megatron_core.optimizer import GuardedOptimizer
from services.learner.backends.megatron_core.resharding import Reassembly, experts_file, model_file, rank_file
from services.learner.backends.optim import muon
from services.learner.checkpoints import directory as checkpoints
from services.learner.huggingface.config import ModelConfig
from services.learner.interface.policy_spec import PolicySpec
from services.learner.interface.snapshot import Snapshot

log = logging.getLogger(__name__)


class MegatronState:
    """The weights, optimizer and random state of one rank; `models` are its unwrapped chunks of layers.

    part: what of a checkpoint this is: "" the main model, or a name that stands in front of its files' (a critic).
    """

    def __init__(
        self,
        config: ModelConfig,
        layout: RankGroups,
        models: Sequence[Any],
        optimizer: GuardedOptimizer,
        spec: PolicySpec,
        part: str = "",
    ) -> None:
        self._part = part
        self._config, self._layout, self._models, self._optimizer = config, layout, models, optimizer
        lora = adapters.identity(spec.learner.lora)
        numbers = {k: v for k, v in dataclasses.asdict(config).items() if k != "experts" or v is not None}
        self._model_identity = {**numbers, **muon.identity(optimizer.settings), "lora": lora}
        self._layout_identity = {
            **layout.describe(),
            "weights": spec.dtype,
            "distributed_optimizer": spec.cuts_optimizer,
        }

    def snapshot(self) -> Snapshot:
        """Refers to live memory."""
        weights = self.snapshot_of({p.name: p.parameter.detach() for p in self.mapped()}, self._part)
        shards = {self.rank_file(): self._rank_state(), **weights.shards}
        return Snapshot(shards, self._model_identity, self._layout_identity)

    def snapshot_of(self, weights: Mapping[str, Tensor], part: str) -> Snapshot:
        """Weights alone, by the names of this rank's parameters, as files of another part."""
        groups = self._layout.groups
        states: dict[str, Any] = {}
        if groups.dp_cp.rank() == 0:
            states[model_file(groups.pp.rank(), groups.tp.rank(), part)] = {
                p.name: weights[p.name] for p in self.mapped() if not p.is_expert
            }
        if self._config.experts is not None and groups.expt_dp.rank() == 0:
            states[experts_file(groups.pp.rank(), groups.ep.rank(), part)] = {
                p.name: weights[p.name] for p in self.mapped() if p.is_expert
            }
        return Snapshot(states, self._model_identity, self._layout_identity)

    def load_weights(self, path: str | Path, part: str) -> None:
        """What `snapshot_of` gave, into the parameters; a collective. Raises as `Policy.load`."""
        manifest = checkpoints.manifest_of(path)
        checkpoints.check_model(path, manifest, self._model_identity, part)
        if manifest.layout == self._layout_identity:
            self._copy_weights(checkpoints.read(path, manifest, self._weight_files(part)))
        else:
            whole = Reassembly(Path(path), manifest.layout, self._config, part, optimizer=False)
            with torch.no_grad():
                conversion.load(self._models, whole.weight, self._config, self._layout)

    def load(self, path: str | Path) -> dict[str, Any]:
        """Restores a checkpoint and returns its `extra`; a collective. Raises as `Policy.load`."""
        manifest = checkpoints.manifest_of(path)
        checkpoints.check_model(path, manifest, self._model_identity, self._part)
        if manifest.layout == self._layout_identity:
            self._load_same_layout(path, manifest)
        else:
            log.info("resharding %s: written under %s, here %s", path, manifest.layout, self._layout_identity)
            checkpoints.verify(path, manifest)
            self._load_resharded(Reassembly(Path(path), manifest.layout, self._config, self._part))
        return manifest.extra

    def mapped(self) -> list[conversion.MappedParameter]:
        """This rank's parameters."""
        return list(conversion.mapped_parameters(self._models))

    def rank_file(self) -> str:
        """The file that is this rank's alone."""
        groups = self._layout.groups
        return rank_file(groups.pp.rank(), groups.tp.rank(), groups.dp_cp.rank(), self._part)

    def _load_same_layout(self, path: str | Path, manifest: checkpoints.Manifest) -> None:
        state, *files = checkpoints.read(path, manifest, [self.rank_file(), *self._weight_files(self._part)])
        self._copy_weights(files)
        optimizer = state["optimizer"]
        own = {p.parameter: optimizer["pieces"].get(p.name) for p in self.mapped()}
        self._optimizer.load_state(optimizer, lambda parameter, start, end, key: own[parameter][key])
        torch.set_rng_state(state["rng"])
        get_cuda_rng_tracker().set_states(state["tracker"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_rng"])

    def _weight_files(self, part: str) -> list[str]:
        """Those that hold this rank's weights."""
        groups = self._layout.groups
        names = [model_file(groups.pp.rank(), groups.tp.rank(), part)]
        if self._config.experts is not None:
            names.append(experts_file(groups.pp.rank(), groups.ep.rank(), part))
        return names

    def _copy_weights(self, files: Sequence[Mapping[str, Tensor]]) -> None:
        weights = {name: tensor for file in files for name, tensor in file.items()}
        for p in self.mapped():
            p.parameter.data.copy_(weights[p.name])

    def _load_resharded(self, whole: Reassembly) -> None:
        conversion.load(self._models, whole.weight, self._config, self._layout)
        mapped = {p.parameter: p for p in self.mapped()}

        def piece(parameter: torch.nn.Parameter, start: int, end: int, key: str) -> Tensor:
            p = mapped[parameter]
            get = whole.weight if key == "main" else partial(whole.get, what=key)
            tensors = [get(name) for name in conversion.sources(p, self._config)]
            return conversion.shard(p.kind, tensors, self._config, *p.place(self._layout)).reshape(-1)[start:end]

        self._optimizer.load_state(whole.counters(), piece)

    def _rank_state(self) -> dict[str, Any]:
        state = {
            "optimizer": self._optimizer.state(),
            "rng": torch.get_rng_state(),
            "tracker": get_cuda_rng_tracker().get_states(),
        }
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state()
        return state
