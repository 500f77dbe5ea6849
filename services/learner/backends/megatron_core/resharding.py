"""Reads a checkpoint that was written under another layout: whole Hugging Face tensors, put together from its shards.

    model-pp0-tp0 ─┐ unshard over TP                                            shard over TP, cut to the
    model-pp0-tp1 ─┴────────────────► weight        (Hugging Face name, whole) ─► piece that this rank owns
    rank-pp0-tp0-dp0 … : pieces ──────► exp_avg, …      (the same names)

The Hugging Face form is what every layout can be made from, so one mapping (`conversion`) serves loading a model,
exporting it and changing its layout. Moments are sharded as their parameter is; they take the same way. Nothing is
computed: a number that leaves here is bitwise one that the checkpoint holds.

Files are mapped, not read: a rank touches the pages of the tensors it asks for, one parameter at a time.
"""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.learner.backends.megatron_core.conversion import is_expert, rule_of, unshard
from services.learner.huggingface.config import ModelConfig


def model_file(pipeline: int, tensor: int, part: str = "") -> str:
    """Weights of one pipeline stage's tensor shard. part: see MegatronState."""
    return f"{part and part + '-'}model-pp{pipeline}-tp{tensor}.pt"


def experts_file(pipeline: int, share: int, part: str = "") -> str:
    """Weights of one pipeline stage's experts on one of its expert ranks."""
    return f"{part and part + '-'}experts-pp{pipeline}-ep{share}.pt"


def rank_file(pipeline: int, tensor: int, replica: int, part: str = "") -> str:
    """Optimizer pieces and random state of one rank; `replica` counts data × context ranks."""
    return f"{part and part + '-'}rank-pp{pipeline}-tp{tensor}-dp{replica}.pt"


class Reassembly:
    """The whole tensors of a checkpoint. `layout`: the sizes it was written under, of its manifest.

    Everything is one of WEIGHT or a key of the optimizer's pieces ("main", "exp_avg", "exp_avg_sq"). optimizer: whether
    the part has one.
    """

    WEIGHT = "weight"

    def __init__(
        self, path: Path, layout: Mapping[str, Any], config: ModelConfig, part: str = "", *, optimizer: bool = True
    ) -> None:
        self._path, self._config, self._part, self._has_optimizer = path, config, part, optimizer
        self._tensor, self._replicas = layout["tensor"], layout["data"] * layout["context"]
        self._open = functools.cache(_mapped)
        self._name_and_place: dict[
            str, tuple[str, int, int]
        ] = {}  # Hugging Face name -> ours, stage, which of its parts
        self._file_of_expert: dict[str, str] = {}
        for stage in range(layout["pipeline"]):
            self._note(self._open(path / model_file(stage, 0, part)), stage)
            for share in range(layout.get("expert", 1) if config.experts is not None else 0):
                experts = self._open(path / experts_file(stage, share, part))
                self._note(experts, stage)
                self._file_of_expert |= dict.fromkeys(experts, experts_file(stage, share, part))
        self._whole = functools.lru_cache(maxsize=1)(self._assemble)

    def _note(self, names: Iterable[str], stage: int) -> None:
        for name in names:
            for i, hf_name in enumerate(rule_of(name)[1]):
                self._name_and_place.setdefault(hf_name, (name, stage, i))

    def get(self, hf_name: str, what: str) -> Tensor:
        """The whole tensor. Raises KeyError if the checkpoint has none of that name."""
        name, stage, part = self._name_and_place[hf_name]
        return self._whole(name, stage, what)[part]

    def weight(self, hf_name: str) -> Tensor:
        """The weight at its best precision: fp32 main weights where the checkpoint has them."""
        name, stage, _ = self._name_and_place[hf_name]
        tensors = range(self._tensor if is_expert(name) else 1)
        has_main = any("main" in piece for t in tensors for piece in self._pieces(name, stage, t))
        return self.get(hf_name, "main" if has_main else self.WEIGHT)

    def counters(self) -> Mapping[str, Any]:
        """Of the optimizer's guard."""
        state: Mapping[str, Any] = self._open(self._path / rank_file(0, 0, 0, self._part))["optimizer"]
        return state

    def _assemble(self, name: str, stage: int, what: str) -> list[Tensor]:
        if name in self._file_of_expert:  # whole, but any tensor, context and data rank may have pieces of its state
            pieces = [p for t in range(self._tensor) for p in self._pieces(name, stage, t)]
            locals_ = [self._local(name, self._file_of_expert[name], pieces, what)]
        else:
            locals_ = [
                self._local(name, model_file(stage, t, self._part), self._pieces(name, stage, t), what)
                for t in range(self._tensor)
            ]
        return unshard(rule_of(name)[0], locals_, self._config)

    def _local(self, name: str, file: str, pieces: list[Mapping[str, Any]], what: str) -> Tensor:
        """One shard, its pieces joined over the ranks that have some."""
        weight: Tensor = self._open(self._path / file)[name]
        if what == self.WEIGHT:
            return weight
        flat = torch.empty(weight.numel(), dtype=torch.float32)
        covered = torch.zeros(weight.numel(), dtype=torch.bool)
        for piece in pieces:
            flat[piece["start"] : piece["end"]] = piece[what]
            covered[piece["start"] : piece["end"]] = True
        if not bool(covered.all()):
            raise KeyError(f"{self._path}: {what} of {name} has {int(covered.sum())} of {flat.numel()} numbers")
        return flat.view(weight.shape)

    def _pieces(self, name: str, stage: int, tensor: int) -> list[Mapping[str, Any]]:
        """Those of a parameter that one tensor rank's replicas have."""
        replicas = range(self._replicas if self._has_optimizer else 0)
        files = (self._open(self._path / rank_file(stage, tensor, replica, self._part)) for replica in replicas)
        return [pieces[name] for file in files if name in (pieces := file["optimizer"]["pieces"])]


def _mapped(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
