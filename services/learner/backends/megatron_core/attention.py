"""Core attention for Megatron's local layer spec in plain torch, for packed sequences, with context parallelism.

Upstream's local attention refuses packing and its context parallelism needs TransformerEngine; ours is in
`context_attention`. The same code runs on CPU and CUDA.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from services.learner.backends.megatron_core import context_attention
from services.learner.backends.packing.attention import attend_pack
from services.learner.backends.packing.packs import Pack

CONTEXT = {"all_gather": context_attention.gather, "a2a": context_attention.ulysses}
"""By Megatron's names (TransformerConfig.cp_comm_type)."""


@dataclass
class PackedSequences(PackedSeqParams):
    """Megatron's packing parameters (`thd`), and the pack that they describe."""

    pack: Pack = field(default_factory=lambda: Pack([0], [0], torch.zeros(0, dtype=torch.int64)))

    @staticmethod
    def of(pack: Pack, device: torch.device) -> "PackedSequences":
        real = torch.tensor(pack.real, dtype=torch.int32, device=device)
        padded = torch.tensor(pack.boundaries, dtype=torch.int32, device=device)
        longest = int(pack.positions.max()) + 1
        return PackedSequences(
            qkv_format="thd",
            cu_seqlens_q=real,
            cu_seqlens_kv=real,
            cu_seqlens_q_padded=padded,
            cu_seqlens_kv_padded=padded,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
            pack=pack,
        )


class TorchAttention(torch.nn.Module):
    """Causal attention of each sequence of a pack over itself. Constructor arguments are Megatron's."""

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        super().__init__()
        if pg_collection is None:
            raise ValueError("TorchAttention needs the process groups of its layer")
        if (config.attention_dropout if attention_dropout is None else attention_dropout) != 0.0:
            raise ValueError("attention dropout is not supported: log-probabilities would not be reproducible")
        self.context = pg_collection.cp
        self.attend_context = CONTEXT[cp_comm_type or "all_gather"]
        self.scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSequences | None = None,
    ) -> Tensor:
        """query [t, heads, d], key and value [t, kv heads, d], t the local tokens of the pack -> [t, 1, heads·d]."""
        if not isinstance(packed_seq_params, PackedSequences):
            raise ValueError("TorchAttention is for packed sequences only")
        pack = packed_seq_params.pack
        if self.context.size() > 1:
            out = self.attend_context(query, key, value, pack, self.context, self.scale)
        else:
            out = attend_pack(query, key, value, pack, self.scale)
        return out.reshape(out.shape[0], 1, -1)
