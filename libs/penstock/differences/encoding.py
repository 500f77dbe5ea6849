"""The difference between two versions, as long as it is worth one."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from penstock.differences import records as codec
from penstock.differences.layout import Block, Layout, blocks, threads
from penstock.tensors.manifest import Buffer

MAGIC = b"PSD1"
HEAD = 5
LOOK = 16
"""Blocks behind which it is asked whether the rest is worth encoding: in float32 nearly everything changes."""


ENOUGH = 64 << 20
"""Bytes of a version that say how the rest will be."""


def encoded(layout: Layout, old: Sequence[Buffer], new: Sequence[Buffer], most: float) -> bytes | None:
    """What makes `new` of `old`, the bytes of each tensor of the layout; None where it would have more than the share
    `most` of their bytes."""
    found = records_of(layout, old, new, most)
    return None if found is None else joined(found)


def joined(parts: Iterable[Buffer]) -> bytes:
    """The difference whose tensors have these records, in the layout's order."""
    return b"".join((MAGIC, *parts))


def records_of(
    layout: Layout, old: Sequence[Buffer], new: Sequence[Buffer], most: float, least: int = 0
) -> list[bytes] | None:
    """The records of each tensor, as `encoded` joins them. least: bytes of which they may always have that share."""
    sizes = [memoryview(data).nbytes for data in new]
    room, seen = most * max(sum(sizes), least), 0
    pieces, length = [list[bytes]() for _ in layout], len(MAGIC)
    before, after = ([memoryview(data).cast("B") for data in side] for side in (old, new))
    todo = blocks(layout)

    def one(block: Block) -> tuple[int, bytes]:
        part = slice(block.start, block.start + block.size)
        return codec.encode(before[block.tensor][part], after[block.tensor][part], block.item)

    with ThreadPoolExecutor(threads(), "differences") as pool:
        while group := list(islice(todo, LOOK)):
            for block, (kind, payload) in zip(group, pool.map(one, group), strict=True):
                pieces[block.tensor] += [bytes([kind]), len(payload).to_bytes(4, "little"), payload]
                length += HEAD + len(payload)
                seen += block.size
            if length > most * max(seen, ENOUGH) or length > room:
                return None
    return [b"".join(each) for each in pieces]
