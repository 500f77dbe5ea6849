"""Whole Hugging Face matrices of parameters that Megatron cuts over tensor ranks and fuses; for `muon`."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from services.learner.backends.megatron_core.conversion import SCORE, MappedParameter, shard, unshard
from services.learner.backends.megatron_core.layout import RankGroups
from services.learner.huggingface.config import ModelConfig


class MegatronMatrices:
    """`muon.Matrices` of one rank's parameters."""

    def __init__(self, mapped: Sequence[MappedParameter], config: ModelConfig, layout: RankGroups) -> None:
        self._mapped = {p.name: p for p in mapped}
        self._config, self._layout = config, layout

    @staticmethod
    def is_hidden(p: MappedParameter) -> bool:
        """Whether it is a hidden matrix, and thus Muon's."""
        return p.parameter.dim() == 2 and p.kind != "vocab" and p.hf_names != [SCORE]

    def whole(self, name: str, own: Tensor) -> Sequence[Tensor]:
        p = self._mapped[name]
        _, size = p.place(self._layout)
        parts = [own.contiguous()]  # gloo ignores strides
        if size > 1 and p.kind != "same":
            parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(size)]
            dist.all_gather(parts, own.contiguous(), group=self._layout.groups.tp)
        return unshard(p.kind, parts, self._config)

    def own(self, name: str, whole: Sequence[Tensor]) -> Tensor:
        p = self._mapped[name]
        return shard(p.kind, list(whole), self._config, *p.place(self._layout))
