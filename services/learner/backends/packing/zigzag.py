"""How a packed sequence is cut over context-parallel ranks so that causal attention costs every rank the same.

Each sequence, padded to a multiple of 2n, is cut into 2n chunks; rank r holds chunks r and 2n−1−r: an early, cheap one
and a late, expensive one. Megatron slices RoPE the same way, so everything per-token is cut with this.

    n = 2, one sequence of 8:   rank 0: tokens 0 1 | 6 7      rank 1: tokens 2 3 | 4 5
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def local_index(boundaries: Sequence[int], n: int, rank: int) -> Tensor:
    """Positions of the whole pack that `rank` holds, in its order; int64 [tokens / n].

    boundaries: start of every padded sequence and the end of the last; lengths divisible by 2n.
    """
    if n == 1:
        return torch.arange(boundaries[-1])
    pieces = []
    for start, end in zip(boundaries[:-1], boundaries[1:], strict=True):
        chunk = (end - start) // (2 * n)
        for c in (rank, 2 * n - 1 - rank):
            pieces.append(torch.arange(start + c * chunk, start + (c + 1) * chunk))
    return torch.cat(pieces)


def join_index(boundaries: Sequence[int], n: int) -> Tensor:
    """Index that takes the concatenation of all ranks' parts (in rank order) back to natural order; int64 [tokens]."""
    gathered = torch.cat([local_index(boundaries, n, rank) for rank in range(n)])
    return torch.argsort(gathered)
