"""Sequences that begin alike, folded into a tree: every shared stretch of tokens stands once.

    a b c d e        segments   a b c    parent –   position 0
    a b c f                     d e             0            3
    a b c f g  ->               f               0            3
    x y                         g               2            4
                                x y             –            0

A model that lets each token see its ancestors and itself computes for every token what it computes for the sequence
alone, and back-propagation adds up what all descendants say. Pure, without torch; linear in tokens: sequences are
sorted as bytes, and each is compared with its neighbour once.

Invariants (test names): every path of the tree is its sequence; parents come before children, and what descends from
a segment follows it without a gap; no shared segment is shorter than asked; folding adds no padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST = 8
"""Tokens that are worth a shared segment: what it saves must be more than another rectangle of attention costs."""


@dataclass(frozen=True)
class Segment:
    """A stretch of tokens: of `sequence` from `position` on. parent: the segment before it, −1 at the start."""

    sequence: int
    position: int
    length: int
    parent: int


@dataclass(frozen=True)
class Tree:
    """Attributes:
    segments: parents before children, the descendants of each behind it without a gap.
    paths: of each sequence, the segments that make it up, in order.
    order: the sequences, sorted by their tokens; neighbours share most.
    """

    segments: list[Segment]
    paths: list[list[int]]
    order: list[int]

    @property
    def tokens(self) -> int:
        """What is computed."""
        return sum(s.length for s in self.segments)

    @property
    def roots(self) -> list[list[int]]:
        """The sequences that share something with each other, directly or through others, in sorted order."""
        found: dict[int, list[int]] = {}
        for i in self.order:
            found.setdefault(self.paths[i][0], []).append(i)
        return list(found.values())


def fold(
    sequences: Sequence[NDArray[np.integer]],
    least: int = LEAST,
    multiple: int = 1,
    kinds: Sequence[int] | None = None,
) -> Tree:
    """The tree of sequences of at least one token ≥ 0 each.

    least: common beginnings that are shorter stay where they are, and so do stretches between two branchings.
    multiple: shared segments have lengths of which; where segments are padded to it, only ends of sequences are.
    kinds: of each sequence; only those of a kind share anything. All are of one if None.
    """
    order, common = _sorted(sequences, kinds or [0] * len(sequences))
    segments: list[Segment] = []
    paths: list[list[int]] = [[] for _ in sequences]
    stack = [(0, len(order), 0, -1)] if order else []
    while stack:
        first, last, start, parent = stack.pop()
        if last - first == 1:
            only, length = order[first], len(sequences[order[first]])
            if length > start:
                segments.append(Segment(only, start, length - start, parent))
                paths[only].append(len(segments) - 1)
            continue
        shared = int(common[first + 1 : last].min())  # by all of them: they are sorted
        bounds = [first, *(np.flatnonzero(common[first + 1 : last] == shared) + first + 1).tolist(), last]
        cut = shared - shared % multiple
        if cut - start >= least:
            segments.append(Segment(order[first], start, cut - start, parent))
            parent, start = len(segments) - 1, cut
            for i in order[first:last]:
                paths[i].append(parent)
        stack += [(a, b, start, parent) for a, b in zip(bounds[-2::-1], bounds[:0:-1], strict=True)]
    return Tree(segments, paths, order)


def _sorted(sequences: Sequence[NDArray[np.integer]], kinds: Sequence[int]) -> tuple[list[int], NDArray[np.int64]]:
    """The sequences in the order of kinds and tokens, and how many tokens each has in common with the one before (0 at
    first, and with one of another kind)."""
    keys = [(kind, s.astype(">u4").tobytes()) for kind, s in zip(kinds, sequences, strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    common = np.zeros(len(order), np.int64)
    for at in range(1, len(order)):
        if kinds[order[at - 1]] == kinds[order[at]]:
            common[at] = _in_common(sequences[order[at - 1]], sequences[order[at]])
    return order, common


def _in_common(a: NDArray[np.integer], b: NDArray[np.integer]) -> int:
    n = min(len(a), len(b))
    differs = a[:n] != b[:n]
    where = int(differs.argmax())
    return where if differs[where] else n
