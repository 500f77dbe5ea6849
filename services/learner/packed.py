"""Where the sequences of a packed micro-batch lie, worked out once and used by every layer's attention.

Attention over a pack must not look across sequences. One kernel call per sequence is slow for many short sequences, and
one padded batch is wasteful for mixed lengths; so sequences of similar length share a call (a *bucket*), padded to the
longest of them. Padding sits behind every real token, where causal attention cannot see it, and its outputs are
dropped, so results and gradients are those of separate calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_LARGEST_STRETCH = 1.25
"""Sequences share a bucket while its longest is at most this times its shortest."""


@dataclass(frozen=True)
class Bucket:
    """`index` [n, length] takes the pack's tokens to a padded batch."""

    index: Tensor


@dataclass(frozen=True)
class Pack:
    """The sequences of a pack, padded, one behind the other.

    Attributes:
      real, boundaries: start of each sequence and the end of the last, without and with padding, over all context
        ranks.
      buckets, restore: with buckets the pack's tokens, flattened bucket by bucket and indexed with `restore` [tokens],
        are in natural order again. None where one call does for the whole pack.
    """

    real: list[int]
    boundaries: list[int]
    buckets: list[Bucket] = field(default_factory=list)
    restore: Tensor | None = None


def describe_pack(lengths: Sequence[int], padded: Sequence[int], context: int, device: torch.device) -> Pack:
    """Of sequences of `lengths` tokens padded to `padded`. Buckets are only built without context parallelism, where a
    rank holds whole sequences."""
    real, bounds = [0], [0]
    for length, size in zip(lengths, padded, strict=True):
        real.append(real[-1] + length)
        bounds.append(bounds[-1] + size)
    if context == 1 and len(padded) > 1:
        return Pack(real, bounds, *_buckets(bounds, device))
    return Pack(real, bounds)


def _buckets(bounds: list[int], device: torch.device) -> tuple[list[Bucket], Tensor]:
    falling = sorted(range(len(bounds) - 1), key=lambda i: bounds[i] - bounds[i + 1])
    size = [bounds[i + 1] - bounds[i] for i in falling]
    starts = torch.tensor([bounds[i] for i in falling])
    sizes = torch.tensor(size)
    buckets, where = [], torch.empty(bounds[-1], dtype=torch.int64)
    first, offset = 0, 0
    while first < len(falling):
        longest = size[first]
        last = first
        while last < len(falling) and size[last] * _LARGEST_STRETCH >= longest:
            last += 1
        column = torch.arange(longest)
        index = starts[first:last, None] + torch.minimum(column, sizes[first:last, None] - 1)
        is_token = column < sizes[first:last, None]
        where[index[is_token]] = offset + torch.arange(index.numel()).view_as(index)[is_token]
        buckets.append(Bucket(index.to(device)))
        offset += index.numel()
        first = last
    return buckets, where.to(device)
