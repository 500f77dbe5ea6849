"""What a sliding window leaves of the parts of a pack: a token sees so many tokens, itself included, and no more.

A causal part that is longer than the window is cut into bands as long as it: each with itself, causal, and × what is
within reach before it. Of a rectangle the keys that none of its queries reaches are cut off, and the queries that reach
none of its keys. So work and masks grow with the window, and not with the square of a sequence.

    window 4     a b c d | e f g h      abcd and efgh, causal;   efgh × bcd, masked

Invariants (test names): a tree attends as one masked call; no part has what nobody sees of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from services.learner.backends.packing.parts import Part, Rows


def windowed(parts: Sequence[Part], positions: Tensor, window: int) -> list[Part]:
    """positions: int64 [t] of the pack's tokens. All on the CPU. Parts that reach a window still want a mask."""
    found = [cut for part in parts for cut in _cut(part, positions, window)]
    return sorted(found, key=lambda part: not part.causal)  # each query's causal part comes first


def _cut(part: Part, positions: Tensor, window: int) -> Iterator[Part]:
    if part.reach < window:
        yield part
    elif part.causal:
        yield from _bands(part, positions, window)
    else:
        yield from _within(part, positions, window)


def _bands(part: Part, positions: Tensor, window: int) -> Iterator[Part]:
    index = part.queries.index
    assert isinstance(index, Tensor)
    there = torch.ones(index.shape, dtype=torch.bool)
    if part.queries.kept is not None:
        there = torch.zeros(index.numel(), dtype=torch.bool).index_fill(0, part.queries.kept, True).view_as(index)
    for begin in range(0, index.shape[1], window):
        if not there[:, begin:].any():
            break
        own = _columns(index, there, begin, begin + window)
        yield Part(own, Rows(own.index), True, own.length - 1)
        before = _columns(index, there, max(0, begin - window + 1), begin)
        if before.length:  # which the band's last token is too far from
            near = _columns(index, there, begin, begin + window - 1)
            yield Part(near, Rows(before.index), False, near.length - 1 + before.length)


def _columns(index: Tensor, there: Tensor, begin: int, end: int) -> Rows:
    kept = there[:, begin:end]
    places = None if kept.all() else torch.nonzero(kept.reshape(-1))[:, 0]
    return Rows(index[:, begin:end].contiguous(), places)


def _within(part: Part, positions: Tensor, window: int) -> Iterator[Part]:
    of_queries, of_keys = (rows.take(positions)[0] for rows in (part.queries, part.keys))
    reaching = torch.nonzero(of_queries - of_keys[-1] < window)[:, 0]
    if not len(reaching):
        return
    reached = of_keys > of_queries[reaching].min() - window
    queries = _some(part.queries, reaching)
    keys = _some(part.keys, torch.nonzero(reached)[:, 0])
    reach = int(of_queries[reaching].max() - of_keys[reached].min())
    yield replace(part, queries=queries, keys=keys, reach=reach)


def _some(rows: Rows, places: Tensor) -> Rows:
    """A part of a stretch, as a stretch where it is one."""
    assert isinstance(rows.index, slice)
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 == len(places):
        return Rows(slice(rows.index.start + first, rows.index.start + last + 1))
    return Rows((places + rows.index.start)[None])
