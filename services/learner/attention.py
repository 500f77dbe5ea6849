"""Core attention for Megatron's local layer spec in plain torch, for packed sequences, with context parallelism.

Upstream's local attention refuses packing and its context parallelism needs TransformerEngine. Here K and V are
gathered over context ranks (small under grouped-query attention; any head count works) while each rank keeps its zigzag
part of the queries. The same code runs on CPU and CUDA.
"""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from services.learner import zigzag
from services.learner.packed import PackedSequences


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
        if self.context.size() > 1:
            out = self._context_parallel(query, key, value, packed_seq_params.boundaries)
        elif packed_seq_params.restore is not None:
            out = self._bucketed(query, key, value, packed_seq_params, packed_seq_params.restore)
        else:
            out = self._whole(query, key, value)
        return out.reshape(out.shape[0], 1, -1)

    def _whole(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))  # [1, heads, tokens, d]
        return _attend(q, k, v, self.scale)[0].transpose(0, 1)

    def _bucketed(self, q: Tensor, k: Tensor, v: Tensor, packed: PackedSequences, restore: Tensor) -> Tensor:
        heads = [x.shape[1] for x in (q, k, v)]
        qkv = torch.cat([q, k, v], 1)
        outs = []
        for bucket in packed.buckets:
            n, length = bucket.index.shape
            batch = qkv.index_select(0, bucket.index.view(-1)).view(n, length, *qkv.shape[1:]).transpose(1, 2)
            bq, bk, bv = batch.split(heads, 1)
            outs.append(_attend(bq, bk, bv, self.scale).transpose(1, 2).reshape(n * length, heads[0], -1))
        return torch.cat(outs).index_select(0, restore)

    def _context_parallel(self, q: Tensor, k: Tensor, v: Tensor, boundaries: list[int]) -> Tensor:
        n, rank = self.context.size(), self.context.rank()
        kv = torch.cat([k, v], -1).contiguous()  # gloo ignores strides
        kv = gather_from_sequence_parallel_region(kv, True, self.context)  # backward: reduce-scatter
        kv = kv.index_select(0, zigzag.join_index(boundaries, n).to(kv.device))
        k, v = kv.split([k.shape[-1], v.shape[-1]], -1)
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))  # [1, heads, tokens, d]
        outs, local = [], 0
        for start, end in zip(boundaries[:-1], boundaries[1:], strict=True):
            chunk = (end - start) // (2 * n)
            for c in (rank, 2 * n - 1 - rank):
                stop = start + (c + 1) * chunk
                outs.append(
                    _attend(q[:, :, local : local + chunk], k[:, :, start:stop], v[:, :, start:stop], self.scale)
                )
                local += chunk
        return torch.cat(outs, 2)[0].transpose(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """q [b, h, sq, d], k and v [b, g, sk, d], the last query aligned to the last key -> [b, h, sq, d].

    On a CPU in fp32 always: torch's bf16 kernel is several times slower there for short sequences.
    """
    dtype = q.dtype
    if q.device.type == "cpu":
        q, k, v = q.float(), k.float(), v.float()
    if q.shape[2] == k.shape[2]:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    else:
        repeat = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(q.shape[2], k.shape[2]), scale=scale)
    return out.to(dtype)
