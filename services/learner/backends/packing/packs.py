"""Where the sequences of a packed micro-batch lie, worked out once and used by every layer's attention.

Attention over a pack must not look across sequences. One kernel call per sequence is slow for many short sequences, and
one padded batch is wasteful for mixed lengths; so sequences of similar length share a call (a *bucket*), padded to the
longest of them. Padding sits behind every real token, where causal attention cannot see it, and its outputs are
dropped, so results and gradients are those of separate calls.

A pack may be a tree: its sequences are then segments, with `parents` that others share (see
`penstock.packing.folding`), and attention goes over its `parts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from services.learner.backends.packing import zigzag
from services.learner.backends.packing.parts import Part, chunked_parts, whole_parts
from services.learner.backends.packing.windows import windowed

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
    """The sequences of a pack, padded, one behind the other; or the segments of a tree.

    Attributes:
      real, boundaries: start of each sequence and the end of the last, without and with padding, over all context
        ranks.
      positions: int64 [t], of each token in its own sequence, over all context ranks in natural order; 0 at padding.
      buckets, restore: with buckets what was computed of the tokens, flattened bucket by bucket and indexed with
        `restore`, is in their own order again. None where one call does for the whole pack, or where it has parts.
      parts: of a tree, which queries see which keys; none where no sequence shares anything.
      natural, held: with parts under context parallelism, what takes the tokens of all ranks, one rank behind the
        other, to natural order, and back.
      routes: of a mixture whose routes are replayed, [t, layers of this rank, top] of the tokens that this context rank
        has, in its order; as `Batch.routes`.
    """

    real: list[int]
    boundaries: list[int]
    positions: Tensor
    buckets: list[Bucket] = field(default_factory=list)
    restore: Tensor | None = None
    parts: list[Part] = field(default_factory=list)
    natural: Tensor | None = None
    held: Tensor | None = None
    routes: Tensor | None = None
    _windowed: dict[int, list[Part]] = field(default_factory=dict, compare=False)

    def within(self, window: int) -> list[Part]:
        """The parts as far as a window of so many tokens lets them be seen; worked out once for all layers."""
        if window not in self._windowed:
            positions = self.positions.cpu()
            cut = windowed([part.on(positions.device) for part in self.parts], positions, window)
            self._windowed[window] = [part.on(self.positions.device) for part in cut]
        return self._windowed[window]


@dataclass(frozen=True)
class Sharing:
    """How context ranks share a pack: how many, which one this is; whole: each attends whole sequences with its heads,
    else it has its zigzag part of the queries."""

    context: int = 1
    rank: int = 0
    whole: bool = True


ALONE = Sharing()


def describe_pack(
    lengths: Sequence[int],
    padded: Sequence[int],
    device: torch.device,
    sharing: Sharing = ALONE,
    parents: Sequence[int] | None = None,
) -> Pack:
    """Of sequences, or segments, of `lengths` tokens padded to `padded`. parents: the segment that each follows, −1 for
    none, in the order of `folding.Tree`; None: sequences.

    Tokens are in natural order, with context ranks in the order in which these hold them, one rank behind the other.
    Where queries are cut, only sequences of equal length share a bucket, and `restore` is of a rank's part.
    """
    real, bounds = [0], [0]
    for length, size in zip(lengths, padded, strict=True):
        real.append(real[-1] + length)
        bounds.append(bounds[-1] + size)
    parents = parents or [-1] * len(lengths)
    positions = _positions(lengths, padded, parents)
    if max(parents) >= 0:
        return _tree(Pack(real, bounds, positions), parents, sharing, device)
    positions = positions.to(device)
    context, whole = sharing.context, sharing.whole
    if context == 1 and len(padded) == 1:
        return Pack(real, bounds, positions)
    found, restore = _buckets(bounds, _LARGEST_STRETCH if whole else 1.0)
    indices = [index for index, _ in found]
    if context == 1:
        return Pack(real, bounds, positions, [Bucket(index.to(device)) for index in indices], restore.to(device))
    join = zigzag.join_index(bounds, context)
    gathered = [join[index].to(device) for index in indices]
    if whole:
        held = torch.argsort(join)
        return Pack(real, bounds, positions, [Bucket(index) for index in gathered], restore[held].to(device))
    rows = [index[:, :1] // context + torch.arange(index.shape[1] // context) for index in indices]
    restore = torch.argsort(torch.cat([r.view(-1) for r in rows])).to(device)
    buckets = [Bucket(i, r.to(device)) for i, r in zip(gathered, rows, strict=True)]
    return Pack(real, bounds, positions, buckets, restore)


def _tree(pack: Pack, parents: Sequence[int], sharing: Sharing, device: torch.device) -> Pack:
    """pack: on the CPU."""
    bounds, context = pack.boundaries, sharing.context
    own = pack.positions
    if sharing.whole:
        parts = whole_parts(_buckets(bounds, _LARGEST_STRETCH)[0], bounds, parents)
    else:
        parts = chunked_parts(bounds, parents, context, sharing.rank)
        own = own[zigzag.local_index(bounds, context, sharing.rank)]
    natural = zigzag.join_index(bounds, context).to(device) if context > 1 else None
    return replace(
        pack,
        positions=pack.positions.to(device),
        parts=[part.reaching(own, pack.positions).on(device) for part in parts],
        natural=natural,
        held=None if natural is None else torch.argsort(natural),
    )


def _positions(lengths: Sequence[int], padded: Sequence[int], parents: Sequence[int]) -> Tensor:
    starts: list[int] = []
    for parent in parents:
        starts.append(starts[parent] + lengths[parent] if parent >= 0 else 0)
    sizes = torch.tensor(padded)
    offset = torch.arange(int(sizes.sum())) - torch.repeat_interleave(torch.cumsum(sizes, 0) - sizes, sizes)
    is_token = offset < torch.repeat_interleave(torch.tensor(lengths), sizes)
    return torch.where(is_token, torch.repeat_interleave(torch.tensor(starts), sizes) + offset, 0)


def _buckets(bounds: list[int], stretch: float) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Indices of buckets whose longest sequence is at most `stretch` times the shortest, each with which of them are no
    padding (bool); and what restores their tokens."""
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
        buckets.append((index, is_token))
        offset += index.numel()
        first = last
    return buckets, where
