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

from services.learner.backends.packing import zigzag

_LARGEST_STRETCH = 1.25
"""Sequences share a bucket while its longest is at most this times its shortest."""


@dataclass(frozen=True)
class Bucket:
    """`index` [n, length] takes the pack's tokens to a padded batch. rows: [n, length / context], where each context
    rank holds its part of them; only where sequences are cut."""

    index: Tensor
    rows: Tensor | None = None


@dataclass(frozen=True)
class Pack:
    """The sequences of a pack, padded, one behind the other.

    Attributes:
      real, boundaries: start of each sequence and the end of the last, without and with padding, over all context
        ranks.
      buckets, restore: with buckets what was computed of the tokens, flattened bucket by bucket and indexed with
        `restore`, is in their own order again. None where one call does for the whole pack.
    """

    real: list[int]
    boundaries: list[int]
    buckets: list[Bucket] = field(default_factory=list)
    restore: Tensor | None = None


def describe_pack(
    lengths: Sequence[int], padded: Sequence[int], device: torch.device, context: int = 1, whole: bool = True
) -> Pack:
    """Of sequences of `lengths` tokens padded to `padded`.

    Tokens are in natural order, with context ranks in the order in which these hold them, one rank behind the other.
    whole: a rank attends whole sequences. Else it has its zigzag part of the queries; only sequences of equal length
    share a bucket then, and `restore` is of that part.
    """
    real, bounds = [0], [0]
    for length, size in zip(lengths, padded, strict=True):
        real.append(real[-1] + length)
        bounds.append(bounds[-1] + size)
    if context == 1 and len(padded) == 1:
        return Pack(real, bounds)
    indices, restore = _buckets(bounds, _LARGEST_STRETCH if whole else 1.0)
    if context == 1:
        return Pack(real, bounds, [Bucket(index.to(device)) for index in indices], restore.to(device))
    join = zigzag.join_index(bounds, context)
    gathered = [join[index].to(device) for index in indices]
    if whole:
        held = torch.argsort(join)
        return Pack(real, bounds, [Bucket(index) for index in gathered], restore[held].to(device))
    rows = [index[:, :1] // context + torch.arange(index.shape[1] // context) for index in indices]
    restore = torch.argsort(torch.cat([r.view(-1) for r in rows])).to(device)
    return Pack(real, bounds, [Bucket(i, r.to(device)) for i, r in zip(gathered, rows, strict=True)], restore)


def _buckets(bounds: list[int], stretch: float) -> tuple[list[Tensor], Tensor]:
    """Indices of buckets whose longest sequence is at most `stretch` times the shortest, and what restores them."""
    falling = sorted(range(len(bounds) - 1), key=lambda i: bounds[i] - bounds[i + 1])
    size = [bounds[i + 1] - bounds[i] for i in falling]
    starts = torch.tensor([bounds[i] for i in falling])
    sizes = torch.tensor(size)
    buckets, where = [], torch.empty(bounds[-1], dtype=torch.int64)
    first, offset = 0, 0
    while first < len(falling):
        longest = size[first]
        last = first
        while last < len(falling) and size[last] * stretch >= longest:
            last += 1
        column = torch.arange(longest)
        index = starts[first:last, None] + torch.minimum(column, sizes[first:last, None] - 1)
        is_token = column < sizes[first:last, None]
        where[index[is_token]] = offset + torch.arange(index.numel()).view_as(index)[is_token]
        buckets.append(index)
        offset += index.numel()
        first = last
    return buckets, where
