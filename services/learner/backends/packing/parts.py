"""Which queries of a pack that is a tree see which keys, as few full or causal rectangles.

A token sees its segment up to itself, and all of its ancestors. Descendants follow a segment without a gap, so what
they see of it is one rectangle: all their queries × its keys, without a copy of any key for any descendant.

    segments      a ── b ── c         a b c d:  each with itself, causal
               └── d                  b c d × a,  c × b:  full

Where context ranks share every segment, a rank has two chunks of each for its queries (see `zigzag`), and the keys of
all: each chunk with itself, causal; × the chunks before it, full; × the ancestors, full.

Invariants (test name): every token sees itself and what is before it in its sequence, each exactly once; a part that is
causal comes before all others of its queries; a segment with descendants has no padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor as [n, length, …]: a stretch (n = 1), or those of `index` (int64 [n, length]).

    kept: int64, which of n · length are not there merely to fill up; None: all.
    """

    index: slice | Tensor
    kept: Tensor | None = None

    def on(self, device: torch.device) -> "Rows":
        index = self.index if isinstance(self.index, slice) else self.index.to(device)
        return Rows(index, None if self.kept is None else self.kept.to(device))

    @property
    def length(self) -> int:
        return self.index.stop - self.index.start if isinstance(self.index, slice) else self.index.shape[1]

    def take(self, x: Tensor) -> Tensor:
        """[n, length, …] of x [t, …]."""
        if isinstance(self.index, slice):
            return x[self.index][None]
        return x.index_select(0, self.index.view(-1)).view(*self.index.shape, *x.shape[1:])

    def take_kept(self, x: Tensor) -> Tensor:
        """As `take`, with 0 where rows fill up."""
        taken = self.take(x)
        if self.kept is None:
            return taken
        flat = taken.flatten(0, 1)
        return torch.zeros_like(flat).index_copy(0, self.kept, flat.index_select(0, self.kept)).view_as(taken)

    def put(self, into: Tensor, x: Tensor) -> None:
        """Overwrites the rows of `into` with x [n, length, …]."""
        if isinstance(self.index, slice):
            into[self.index] = x[0]
            return
        rows, flat = self.index.view(-1), x.flatten(0, 1)
        if self.kept is not None:
            rows, flat = rows.index_select(0, self.kept), flat.index_select(0, self.kept)
        into.index_copy_(0, rows, flat)

    def add(self, into: Tensor, x: Tensor) -> None:
        """Adds x [n, length, …] to the rows of `into`."""
        if isinstance(self.index, slice):
            into[self.index] += x[0]
        else:
            into.index_add_(0, self.index.view(-1), x.flatten(0, 1))


@dataclass(frozen=True)
class Part:
    """All `queries` [n, q] × all `keys` [n, k]; or, `causal` (q = k), each × those up to its own place. reach: by how
    many positions a query is behind the farthest of its keys, at most."""

    queries: Rows
    keys: Rows
    causal: bool
    reach: int = 0

    def on(self, device: torch.device) -> "Part":
        return replace(self, queries=self.queries.on(device), keys=self.keys.on(device))

    def reaching(self, of_queries: Tensor, of_keys: Tensor) -> "Part":
        """With its reach, given the positions of what queries and keys index."""
        return replace(self, reach=int(self.queries.take(of_queries).max() - self.keys.take(of_keys).min()))


def whole_parts(own: Sequence[tuple[Tensor, Tensor]], bounds: Sequence[int], parents: Sequence[int]) -> list[Part]:
    """Of queries and keys that are all there, in natural order. own: buckets of segments, each int64 [n, length] and
    which of these are no padding."""
    causal = []
    for index, is_token in own:
        kept = None if bool(is_token.all()) else torch.nonzero(is_token.view(-1))[:, 0]
        causal.append(Part(Rows(index, kept), Rows(index), True))
    return causal + _ancestors(bounds, parents, 1)


def chunked_parts(bounds: Sequence[int], parents: Sequence[int], n: int, rank: int) -> list[Part]:
    """Of the queries that `rank` of n context ranks has, in its order, and all keys in natural order."""
    causal, earlier = [], []
    chunks = [(end - start) // (2 * n) for start, end in pairwise(bounds)]
    for size in sorted(set(chunks)):
        starts = torch.tensor([bounds[i] for i, chunk in enumerate(chunks) if chunk == size])[:, None]
        for half, c in enumerate((rank, 2 * n - 1 - rank)):
            queries = Rows(starts // n + half * size + torch.arange(size))
            causal.append(Part(queries, Rows(starts + c * size + torch.arange(size)), True))
            if c:
                earlier.append(Part(queries, Rows(starts + torch.arange(c * size)), False))
    return causal + earlier + _ancestors(bounds, parents, n)


def _ancestors(bounds: Sequence[int], parents: Sequence[int], n: int) -> list[Part]:
    """The rectangle of each segment that has descendants, whose queries lie one n-th as far apart."""
    last = list(bounds[1:])
    for i in reversed(range(len(parents))):
        if parents[i] >= 0:
            last[parents[i]] = max(last[parents[i]], last[i])
    return [
        Part(Rows(slice(end // n, behind // n)), Rows(slice(start, end)), False)
        for (start, end), behind in zip(pairwise(bounds), last, strict=True)
        if behind > end
    ]
