"""Reads a checkpoint that was written under another layout: whole Hugging Face tensors, put together from its shards.

    model-pp0-tp0 ─┐ unshard over TP                                            shard over TP, cut to the
    model-pp0-tp1 ─┴────────────────► weight        (Hugging Face name, whole) ─► piece that this rank owns
    rank-pp0-tp0-dp0 … : pieces ──────► exp_avg, …      (the same names)

The Hugging Face form is what every layout can be made from, so one mapping (`hf_weights`) serves loading a model,
exporting it and changing its layout. Moments are sharded as their parameter is; they take the same way. Nothing is
computed: a number that leaves here is bitwise one that the checkpoint holds.

Files are mapped, not read: a rank touches the pages of the tensors it asks for, one parameter at a time.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.learner.hf_config import ModelConfig
from services.learner.hf_weights import rule_of, unshard


def model_file(pipeline: int, tensor: int, part: str = "") -> str:
    """Weights of one pipeline stage's tensor shard. part: see MegatronState."""
    return f"{part and part + '-'}model-pp{pipeline}-tp{tensor}.pt"


def rank_file(pipeline: int, tensor: int, replica: int, part: str = "") -> str:
    """Optimizer pieces and random state of one rank; `replica` counts data × context ranks."""
    return f"{part and part + '-'}rank-pp{pipeline}-tp{tensor}-dp{replica}.pt"


class Reassembly:
    """The whole tensors of a checkpoint. `layout`: the sizes it was written under, of its manifest.

    Everything is one of WEIGHT or a key of the optimizer's pieces ("main", "exp_avg", "exp_avg_sq").
    """

    WEIGHT = "weight"

    def __init__(self, path: Path, layout: Mapping[str, Any], config: ModelConfig, part: str = "") -> None:
        self._path, self._config, self._part = path, config, part
        self._tensor, self._replicas = layout["tensor"], layout["data"] * layout["context"]
        self._open = functools.cache(_mapped)
        self._name_and_place: dict[
            str, tuple[str, int, int]
        ] = {}  # Hugging Face name -> ours, stage, which of its parts
        for stage in range(layout["pipeline"]):
            for name in self._open(path / model_file(stage, 0, part)):
                for i, hf_name in enumerate(rule_of(name)[1]):
                    self._name_and_place.setdefault(hf_name, (name, stage, i))
        self._whole = functools.lru_cache(maxsize=1)(self._assemble)

    def get(self, hf_name: str, what: str) -> Tensor:
        """The whole tensor. Raises KeyError if the checkpoint has none of that name."""
        name, stage, part = self._name_and_place[hf_name]
        return self._whole(name, stage, what)[part]

    def weight(self, hf_name: str) -> Tensor:
        """The weight at its best precision: fp32 main weights where the checkpoint has them."""
        name, stage, _ = self._name_and_place[hf_name]
        has_main = any("main" in self._pieces(stage, 0, r).get(name, ()) for r in range(self._replicas))
        return self.get(hf_name, "main" if has_main else self.WEIGHT)

    def counters(self) -> tuple[int, int]:
        """(steps, skipped) of the optimizer."""
        state = self._open(self._path / rank_file(0, 0, 0, self._part))["optimizer"]
        return state["steps"], state["skipped"]

    def _assemble(self, name: str, stage: int, what: str) -> list[Tensor]:
        locals_ = [self._local(name, stage, tensor, what) for tensor in range(self._tensor)]
        return unshard(rule_of(name)[0], locals_, self._config)

    def _local(self, name: str, stage: int, tensor: int, what: str) -> Tensor:
        """One tensor rank's shard, its pieces joined over data and context ranks."""
        weight: Tensor = self._open(self._path / model_file(stage, tensor, self._part))[name]
        if what == self.WEIGHT:
            return weight
        flat = torch.empty(weight.numel(), dtype=torch.float32)
        covered = 0
        for replica in range(self._replicas):
            piece = self._pieces(stage, tensor, replica).get(name)
            if piece is not None:
                flat[piece["start"] : piece["end"]] = piece[what]
                covered += piece["end"] - piece["start"]
        if covered < flat.numel():
            raise KeyError(f"{self._path}: {what} of {name} has {covered} of {flat.numel()} numbers")
        return flat.view(weight.shape)

    def _pieces(self, stage: int, tensor: int, replica: int) -> dict[str, Any]:
        pieces: dict[str, Any] = self._open(self._path / rank_file(stage, tensor, replica, self._part))["optimizer"][
            "pieces"
        ]
        return pieces


def _mapped(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
