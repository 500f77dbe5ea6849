"""A version made of the one before and what changed, block by block; of several differences, in one go.

Tensors are independent, so several cores make them; a block is changed and hashed while it is in the processor's cache.
Where its old bytes come from and where the new ones go is the caller's: `Start`, `End`.
"""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from penstock.differences import records as codec
from penstock.differences.encoding import HEAD, MAGIC
from penstock.differences.layout import Block, Layout, blocks, threads
from penstock.differences.records import DifferenceError
from penstock.tensors.manifest import checksum, hasher

Record = tuple[int, memoryview]
"""Kind and payload of one block in one difference."""
Start = Callable[[Block], memoryview]
"""Memory that has the old bytes of a block, to be made the new ones in place; called by several threads."""
End = Callable[[Block, memoryview], None]
"""Told when a block is the new one."""


def make(layout: Layout, differences: Sequence[memoryview], start: Start, end: End = lambda *_: None) -> list[bytes]:
    """Makes the last version of the old one and one difference after the other; the checksum of each tensor.

    Raises DifferenceError where a difference is none of this layout, and then leaves what cannot be used; that the
    bytes are the version's own is for those checksums to say.
    """
    todo = list(blocks(layout))
    chains = list(zip(*(_records(difference, len(todo)) for difference in differences), strict=True))
    parts = itertools.groupby(zip(todo, chains or [()] * len(todo), strict=True), lambda part: part[0].tensor)

    def one(tensor: list[tuple[Block, tuple[Record, ...]]]) -> bytes:
        sum_ = hasher()
        for block, chain in tensor:
            memory = start(block)
            words = np.frombuffer(memory, codec.WORDS[block.item])
            for kind, payload in chain:
                codec.apply(kind, payload, words)
            sum_.update(memory)
            end(block, memory)
        return sum_.digest()

    found = [checksum(b"")] * len(layout)
    with ThreadPoolExecutor(threads(), "differences") as pool:
        made = {tensor: pool.submit(one, list(part)) for tensor, part in parts}
        for tensor, sum_ in made.items():
            found[tensor] = sum_.result()
    return found


def in_place(tensors: Sequence[memoryview]) -> Start:
    """Where the tensors have the old bytes, and get the new ones."""
    return lambda block: tensors[block.tensor][block.start : block.start + block.size]


def beside(old: Sequence[memoryview], into: Sequence[memoryview]) -> Start:
    """Where other tensors of this layout have the old bytes."""

    def start(block: Block) -> memoryview:
        part = slice(block.start, block.start + block.size)
        memory = into[block.tensor][part]
        np.copyto(np.frombuffer(memory, np.uint8), np.frombuffer(old[block.tensor][part], np.uint8))
        return memory

    return start


def _records(difference: memoryview, count: int) -> list[Record]:
    """One for each block. Raises DifferenceError."""
    if bytes(difference[: len(MAGIC)]) != MAGIC:
        raise DifferenceError(f"a difference begins with {MAGIC!r}, not with {bytes(difference[: len(MAGIC)])!r}")
    found, at = list[Record](), len(MAGIC)
    for _ in range(count):
        start = at + HEAD
        head = difference[at:start]
        at = start + int.from_bytes(head[1:], "little")
        if at > len(difference) or len(head) < HEAD:
            raise DifferenceError(f"a difference of {len(difference)} bytes ends within a record")
        found.append((head[0], difference[start:at]))
    if at != len(difference):
        raise DifferenceError(f"{len(difference) - at} bytes stand behind a difference's last record")
    return found
