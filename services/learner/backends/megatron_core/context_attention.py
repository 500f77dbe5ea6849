"""Attention where context ranks share every sequence, in two exact forms that differ in what travels.

gather     K and V of all ranks come to each, which keeps its zigzag part of the queries: any number of heads, and
           messages that are small where few KV heads serve many query heads
ulysses    parts of sequences become shares of heads (all-to-all; Jacobs et al. 2023), a rank attends whole sequences
           with its heads, and the outputs travel back:

    rank 0: tokens 0 1 6 7, heads a b  ─┐      ┌─ tokens 0 … 7, head a
                                        ├──────┤
    rank 1: tokens 2 3 4 5, heads a b  ─┘      └─ tokens 0 … 7, head b

           KV heads that are too few to be shared out are repeated first, each as often as it takes.
"""

import math
from typing import Any

import torch
from megatron.core.tensor_parallel import all_to_all, gather_from_sequence_parallel_region
from torch import Tensor

from services.learner.backends.packing.attention import attend, attend_buckets, attend_tree
from services.learner.backends.packing.packs import Pack


def gather(q: Tensor, k: Tensor, v: Tensor, pack: Pack, group: Any, scale: float | None) -> Tensor:
    """q [t, heads, d], k and v [t, kv heads, d], t the tokens of this rank of the context `group` -> [t, heads, d].

    pack: of sequences that are cut (see packs.Sharing).
    """
    n, rank = group.size(), group.rank()
    kv = torch.cat([k, v], -1).contiguous()  # gloo ignores strides
    kv = gather_from_sequence_parallel_region(kv, True, group)  # backward: reduce-scatter
    if pack.natural is not None:
        keys, values = kv.index_select(0, pack.natural).split([k.shape[-1], v.shape[-1]], -1)
        return attend_tree(q, keys, values, pack, scale)
    assert pack.restore is not None
    outs = []
    for bucket in pack.buckets:
        assert bucket.rows is not None
        count, length = bucket.index.shape
        chunk = length // (2 * n)
        bq = q.index_select(0, bucket.rows.view(-1)).view(count, 2 * chunk, *q.shape[1:]).transpose(1, 2)
        batch = kv.index_select(0, bucket.index.view(-1)).view(count, length, *kv.shape[1:]).transpose(1, 2)
        bk, bv = batch.split([k.shape[-1], v.shape[-1]], -1)
        halves = []
        for own, c in zip(bq.split(chunk, 2), (rank, 2 * n - 1 - rank), strict=True):
            stop = (c + 1) * chunk
            halves.append(attend(own, bk[:, :, :stop], bv[:, :, :stop], scale))
        outs.append(torch.cat(halves, 2).transpose(1, 2).reshape(count * 2 * chunk, *q.shape[1:]))
    return torch.cat(outs).index_select(0, pack.restore)


def ulysses(q: Tensor, k: Tensor, v: Tensor, pack: Pack, group: Any, scale: float | None) -> Tensor:
    """As `gather`; the size of `group` divides the query heads. pack: of whole sequences (see packs.Sharing)."""
    n, (tokens, _, size) = group.size(), q.shape
    repeat = n // math.gcd(n, k.shape[1])
    if repeat > 1:
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    shares = [x.reshape(tokens, n, -1, size) for x in (q, k, v)]
    whole = all_to_all(group, torch.cat(shares, 2).transpose(0, 1).contiguous())  # [rank, its tokens, own heads, d]
    own = [x.shape[2] for x in shares]
    if pack.natural is not None and pack.held is not None:
        queries, keys, values = whole.flatten(0, 1).index_select(0, pack.natural).split(own, 1)
        out = attend_tree(queries, keys, values, pack, scale).index_select(0, pack.held)
    else:
        out = attend_buckets(whole.flatten(0, 1), own, pack, scale)
    back = all_to_all(group, out.view(n, tokens, -1, size))  # [rank, own tokens, its heads, d]
    return back.transpose(0, 1).reshape(q.shape)
