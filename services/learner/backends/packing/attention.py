"""Causal attention of each sequence of a pack over itself, in plain torch; the same code on CPU and CUDA. A pack that
is a tree goes to `tree_attention`."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from services.learner.backends.packing.kernels import Attending
from services.learner.backends.packing.packs import Pack
from services.learner.backends.packing.parts import Part
from services.learner.backends.packing.tree_attention import attend_parts


def attend_pack(q: Tensor, k: Tensor, v: Tensor, pack: Pack, scale: float | None, window: int | None = None) -> Tensor:
    """q [t, heads, d], k and v [t, kv heads, d], t the tokens of the whole pack -> [t, heads, d].

    window: tokens that a token sees, itself included; all before it if None.
    """
    if pack.parts:
        return attend_tree(q, k, v, pack, scale, window)
    if pack.restore is None:
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))  # [1, heads, tokens, d]
        return attend(q, k, v, scale, window)[0].transpose(0, 1)
    return attend_buckets(torch.cat([q, k, v], 1), [x.shape[1] for x in (q, k, v)], pack, scale, window)


def attend_tree(q: Tensor, k: Tensor, v: Tensor, pack: Pack, scale: float | None, window: int | None = None) -> Tensor:
    """As `attend_pack`, by the pack's parts. Where context ranks cut queries q is of this rank's; k and v are of all
    tokens in natural order, and there is no window."""
    parts = pack.parts if window is None else pack.within(window)
    repeat = q.shape[1] // k.shape[1]
    seen = [_seen(part, pack.positions, repeat, scale, window) for part in parts]
    return attend_parts(q, k, v, parts, seen)


def attend_buckets(
    qkv: Tensor, heads: Sequence[int], pack: Pack, scale: float | None, window: int | None = None
) -> Tensor:
    """qkv [t, heads + 2 kv heads, d], in an order that the pack's buckets know -> [t, heads, d], in the same order.

    heads: of q, k and v.
    """
    assert pack.restore is not None
    outs = []
    for bucket in pack.buckets:
        n, length = bucket.index.shape
        batch = qkv.index_select(0, bucket.index.view(-1)).view(n, length, *qkv.shape[1:]).transpose(1, 2)
        bq, bk, bv = batch.split(list(heads), 1)
        outs.append(attend(bq, bk, bv, scale, window).transpose(1, 2).reshape(n * length, heads[0], -1))
    return torch.cat(outs).index_select(0, pack.restore)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None = None) -> Tensor:
    """q [b, h, sq, d], k and v [b, g, sk, d], the last query aligned to the last key -> [b, h, sq, d].

    On a CPU in fp32 always: torch's bf16 kernel is several times slower there for short sequences.
    """
    dtype = q.dtype
    if q.device.type == "cpu":
        q, k, v = q.float(), k.float(), v.float()
    if window is not None and window < k.shape[2]:
        seen = torch.ones(k.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril().triu(1 - window)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[-q.shape[2] :], scale=scale, enable_gqa=True)
    elif q.shape[2] == k.shape[2]:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    else:
        repeat = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(q.shape[2], k.shape[2]), scale=scale)
    return out.to(dtype)


def _seen(part: Part, positions: Tensor, repeat: int, scale: float | None, window: int | None) -> Attending:
    """How a part attends: under a window that is shorter than it, by a mask of its own, [its queries × its keys].

    positions: int64 [t] of the pack's tokens. repeat: query heads of a KV head, which are further queries of it.
    """
    if window is None or part.reach < window:
        return Attending(part.causal, None, scale)
    queries, keys = (rows.take(positions)[0] for rows in (part.queries, part.keys))
    distance = queries[:, None] - keys  # the same for all segments of a bucket
    seen = (distance >= 0) & (distance < window)
    return Attending(False, seen if part.causal else seen.repeat(repeat, 1), scale)
