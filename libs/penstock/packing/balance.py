"""Sequences of different lengths into micro-batches that fit a token budget and take equally long.

Every data-parallel rank must run the same number of micro-batches, and a step lasts as long as its slowest rank.
First-fit-decreasing finds how few bins suffice; longest-first into the bin with least work evens them out; bins are
dealt to ranks largest first. Work is what attention makes of it: a sequence of n tokens costs n + quadratic · n². Pure
and deterministic: every rank computes the same plan from the same lengths, so none is sent.

    pack([9, 4, 4, 1], budget=10, ranks=1)  ->  bins [[0], [1, 2, 3]]   18 of 20 tokens used
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


class SequenceTooLong(ValueError):
    """A sequence does not fit the token budget of a micro-batch."""


@dataclass(frozen=True)
class Plan:
    """Who runs what: `micro_batches[rank][i]` lists the sequences (indices) of that rank's i-th micro-batch.

    Invariants: every sequence appears exactly once; no micro-batch exceeds the budget; all ranks have equally many
    micro-batches. A micro-batch is empty only where there are fewer sequences than micro-batches.
    """

    micro_batches: list[list[list[int]]]

    @property
    def per_rank(self) -> int:
        return len(self.micro_batches[0])

    def imbalance(self, work: Sequence[float]) -> float:
        """Work of the busiest rank over the mean of the ranks, ≥ 1: how much longer a step takes than it could. work:
        of each sequence (see `work_of`), or its length. 1 where there is none."""
        loads = [sum(work[i] for bin_ in rank for i in bin_) for rank in self.micro_batches]
        return max(loads) * len(loads) / sum(loads) if sum(loads) else 1.0


def _first_fit_decreasing(order: list[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    bins: list[list[int]] = []
    room: list[int] = []
    for i in order:
        for b, left in enumerate(room):
            if lengths[i] <= left:
                bins[b].append(i)
                room[b] -= lengths[i]
                break
        else:
            bins.append([i])
            room.append(budget - lengths[i])
    return bins


def fewest(lengths: Sequence[int], budget: int) -> int:
    """How many micro-batches hold them."""
    return len(_first_fit_decreasing(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)), lengths, budget))


def work_of(lengths: Sequence[int], quadratic: float) -> list[float]:
    """What each sequence of so many tokens costs, in tokens of a sequence without attention."""
    return [n + quadratic * n * n for n in lengths]


def _even(
    order: list[int], lengths: Sequence[int], work: Sequence[float], budget: int, count: int
) -> list[list[int]] | None:
    """Longest first into that of `count` bins which has least work, of those with room; None if none has."""
    bins: list[list[int]] = [[] for _ in range(count)]
    used = [0] * count
    least = [(0.0, b) for b in range(count)]
    for i in order:
        full = []
        while least and used[least[0][1]] + lengths[i] > budget:
            full.append(heapq.heappop(least))
        if not least:
            return None
        load, b = heapq.heappop(least)
        bins[b].append(i)
        used[b] += lengths[i]
        for entry in [*full, (load + work[i], b)]:
            heapq.heappush(least, entry)
    return bins


def _split_to(bins: list[list[int]], count: int) -> list[list[int]]:
    """Halves the bins with most sequences until there are `count`; adds empty ones when nothing is left to halve."""
    bins = [list(b) for b in bins]
    while len(bins) < count:
        largest = max(bins, key=len, default=[])
        if len(largest) < 2:
            bins.append([])
            continue
        bins.append(largest[1::2])
        largest[:] = largest[0::2]
    return bins


def check_fits(lengths: Sequence[int], budget: int) -> None:
    """Raises SequenceTooLong naming the first sequence that exceeds the budget."""
    for i, length in enumerate(lengths):
        if length > budget:
            raise SequenceTooLong(f"sequence {i} has {length} tokens, but a micro-batch holds at most {budget}")


def pack(
    lengths: Sequence[int],
    budget: int,
    ranks: int = 1,
    multiple: int = 1,
    quadratic: float = 0.0,
    work: Sequence[float] | None = None,
) -> Plan:
    """A balanced plan for sequences of `lengths` tokens on `ranks` data-parallel ranks.

    Args:
      lengths: tokens of each sequence, padding included, each ≥ 1.
      budget: most tokens in a micro-batch.
      ranks: number of data-parallel ranks.
      multiple: micro-batches per rank are a multiple of this (an interleaved pipeline wants its size).
      quadratic: work of attention per token and token, against that of a token alone.
      work: of each, where it is no sequence but several that share what they begin with (see `together`).

    Raises SequenceTooLong naming the sequence, ValueError for non-positive arguments.
    """
    if budget < 1 or ranks < 1 or multiple < 1:
        raise ValueError(f"budget, ranks and multiple must be positive, got {budget}, {ranks}, {multiple}")
    for i, length in enumerate(lengths):
        if length < 1:
            raise ValueError(f"sequence {i} has length {length}")
    check_fits(lengths, budget)
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    fewest = _first_fit_decreasing(order, lengths, budget)
    step = ranks * multiple
    count = max(-(-len(fewest) // step), 1) * step
    work = work_of(lengths, quadratic) if work is None else work
    bins = _even(order, lengths, work, budget, count) or _split_to(fewest, count)
    return Plan(_deal(bins, work, ranks))


def _deal(bins: list[list[int]], work: Sequence[float], ranks: int) -> list[list[list[int]]]:
    """Bins to ranks, `ranks` at a time in falling work, the largest to the rank with least so far."""
    load = [sum(work[i] for i in b) for b in bins]
    falling = sorted(range(len(bins)), key=lambda b: (-load[b], b))
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    total = [0.0] * ranks
    for start in range(0, len(falling), ranks):
        least_first = sorted(range(ranks), key=lambda r: (total[r], r))
        for b, rank in zip(falling[start : start + ranks], least_first, strict=True):
            dealt[rank].append(bins[b])
            total[rank] += load[b]
    return dealt
