"""Which sequences of a batch stay together, so that what they share is computed once: the items that a plan deals out.

    group of 8 answers  ─ folded ─►  one item: prompt + 8 answers          fits, and no rank waits for it: stays
                                     two: prompt + 4, prompt + 4           else cut, the prompt repeated

An item is what a group's sequences share something in; sequences that share nothing are items of their own, as if there
were no groups. One that exceeds the budget of a micro-batch is cut; one that a rank would wait for, halved.
So a sequence is never refused because it was not shared, and a batch without common beginnings is planned as it always
was. Pure and deterministic, as the plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from penstock.packing.balance import check_fits, fewest
from penstock.packing.folding import LEAST, Tree, fold

EVEN = 1.05
"""Work of the busiest rank over the mean below which nothing is halved any more."""


@dataclass(frozen=True)
class Item:
    """`sequences` (indices) that go into one micro-batch; its `tokens`, padding included, and its `work` (as
    `balance.work_of`, ancestors counted)."""

    sequences: list[int]
    tokens: int
    work: float


@dataclass(frozen=True)
class Weighing:
    """What a tree costs. alignment: what each segment is padded to a multiple of. quadratic: see `balance.pack`."""

    alignment: int = 1
    quadratic: float = 0.0

    def fold(self, sequences: Sequence[NDArray[np.integer]], kinds: Sequence[int] | None = None) -> Tree:
        """The tree that is computed. kinds: see `folding.fold`."""
        return fold(sequences, LEAST, self.alignment, kinds)

    def padded(self, length: int) -> int:
        return -(-length // self.alignment) * self.alignment

    def tokens(self, tree: Tree) -> int:
        return sum(self.padded(s.length) for s in tree.segments)

    def work(self, tree: Tree) -> float:
        """A segment of n tokens behind p of its ancestors costs n + quadratic · (n² + 2 n p)."""
        sizes = [(self.padded(s.length), s.position) for s in tree.segments]
        return sum(n + self.quadratic * n * (n + 2 * p) for n, p in sizes)


def alone(lengths: Sequence[int], weighing: Weighing) -> list[Item]:
    """Every sequence as an item of its own, in order."""
    padded = [weighing.padded(n) for n in lengths]
    return [Item([i], n, n + weighing.quadratic * n * n) for i, n in enumerate(padded)]


def together(
    sequences: Sequence[NDArray[np.integer]], groups: Sequence[int], budget: int, ranks: int, weighing: Weighing
) -> list[Item]:
    """The items of a batch for `ranks` data-parallel ranks. groups: of each sequence.

    Raises SequenceTooLong for a sequence that exceeds the budget alone.
    """
    check_fits([weighing.padded(len(s)) for s in sequences], budget)
    members: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    whole = [item for group in members.values() for item in _weighed(group, sequences, weighing)]
    items = [part for item in whole for part in _fitting(item, sequences, budget, weighing)]
    return _evened(_gapless(items, sequences, budget, ranks, weighing), sequences, ranks, weighing)


def tree_of(items: Sequence[Item], sequences: Sequence[NDArray[np.integer]], weighing: Weighing) -> Tree:
    """The tree of a micro-batch, its sequences numbered as the items name them. Items share what they begin with among
    each other unless that made them larger: where they part too soon, a stretch that each has to itself alone would be
    too short for a segment between two branchings."""
    chosen = [sequences[i] for item in items for i in item.sequences]
    whole = weighing.fold(chosen)
    if weighing.tokens(whole) <= sum(item.tokens for item in items):
        return whole
    return weighing.fold(chosen, [n for n, item in enumerate(items) for _ in item.sequences])


def _weighed(group: list[int], sequences: Sequence[NDArray[np.integer]], weighing: Weighing) -> list[Item]:
    """The items that a group falls into, its sequences sorted."""
    tree = weighing.fold([sequences[i] for i in group])
    roots = [[group[i] for i in root] for root in tree.roots]
    if len(roots) == 1:
        return [Item(roots[0], weighing.tokens(tree), weighing.work(tree))]
    return [item for root in roots for item in _weighed(root, sequences, weighing)]


def _fitting(item: Item, sequences: Sequence[NDArray[np.integer]], budget: int, weighing: Weighing) -> list[Item]:
    """The item, cut into as few parts as fit; at the worst each of its sequences alone does."""
    parts = [item]
    for number in range(max(2, -(-item.tokens // budget)), len(item.sequences) + 1):
        if all(part.tokens <= budget for part in parts):
            break
        parts = _cut(item, number, sequences, weighing)
    return parts


def _cut(item: Item, number: int, sequences: Sequence[NDArray[np.integer]], weighing: Weighing) -> list[Item]:
    """Into so many parts of equally many sequences, as these are sorted: those that share most stay together."""
    size, larger = divmod(len(item.sequences), number)
    bounds = [0]
    for i in range(number):
        bounds.append(bounds[-1] + size + (i < larger))
    runs = [item.sequences[start:end] for start, end in pairwise(bounds)]
    return [each for run in runs for each in _weighed(run, sequences, weighing)]


def _gapless(
    items: list[Item], sequences: Sequence[NDArray[np.integer]], budget: int, ranks: int, weighing: Weighing
) -> list[Item]:
    """Halves all items while fewer micro-batches hold the halves: large ones leave gaps."""
    rounds = -(-fewest([i.tokens for i in items], budget) // ranks)
    while any(len(i.sequences) > 1 for i in items):
        halves = [h for i in items for h in (_cut(i, 2, sequences, weighing) if len(i.sequences) > 1 else [i])]
        after = -(-fewest([i.tokens for i in halves], budget) // ranks)
        if after >= rounds:
            break
        items, rounds = halves, after
    return items


def _evened(items: list[Item], sequences: Sequence[NDArray[np.integer]], ranks: int, weighing: Weighing) -> list[Item]:
    """Halves the largest item of the busiest rank while that evens out the ranks' work more than it adds to it."""
    if not items:
        return items
    loads, largest = _dealt(items, ranks)
    while max(loads) * ranks > EVEN * sum(loads) and len(items[largest].sequences) > 1:
        tried = [*items[:largest], *_cut(items[largest], 2, sequences, weighing), *items[largest + 1 :]]
        after, next_ = _dealt(tried, ranks)
        if sum(x**4 for x in after) >= sum(x**4 for x in loads):  # nearly the largest, but falls where two are
            break
        items, loads, largest = tried, after, next_
    return items


def _dealt(items: list[Item], ranks: int) -> tuple[list[float], int]:
    """The ranks' work if each item, largest first, goes to the rank with least so far; and the largest item of the
    busiest rank."""
    loads = [(0.0, rank) for rank in range(ranks)]
    heapify(loads)
    first: dict[int, int] = {}
    for i in sorted(range(len(items)), key=lambda i: (-items[i].work, i)):
        load, rank = loads[0]
        first.setdefault(rank, i)
        heapreplace(loads, (load + items[i].work, rank))
    return [load for load, _ in loads], first[max(loads)[1]]
