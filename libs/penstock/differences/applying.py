"""A version made of the one before and what changed, block by block; of several differences, in one go.

Blocks are independent, so several cores make them, and each is copied and changed while it is in the processor's cache.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from penstock.differences import records as codec
from penstock.differences.encoding import HEAD, MAGIC
from penstock.differences.layout import Block, Layout, blocks, threads
from penstock.differences.records import DifferenceError

Record = tuple[int, memoryview]
"""Kind and payload of one block in one difference."""


def make(
    layout: Layout, old: Sequence[memoryview], differences: Sequence[memoryview], into: Sequence[memoryview]
) -> None:
    """Makes the last version of `old` and one difference after the other, in `into`, tensor by tensor.

    `into` may be `old` itself: then what is the same is not touched. Raises DifferenceError where a difference is none
    of this layout, and then leaves what cannot be used; that the bytes are the version's own is for checksums to say.
    """
    todo = list(blocks(layout, old))
    chains = list(zip(*(_records(difference, len(todo)) for difference in differences), strict=True))

    def one(block: Block, chain: tuple[Record, ...]) -> None:
        part = slice(block.start, block.start + block.size)
        target = np.frombuffer(into[block.tensor][part], codec.WORDS[block.item])
        if into is not old:
            np.copyto(target, np.frombuffer(old[block.tensor][part], codec.WORDS[block.item]))
        for kind, payload in chain:
            codec.apply(kind, payload, target)

    with ThreadPoolExecutor(threads(), "differences") as pool:
        list(pool.map(one, todo, chains or [()] * len(todo)))


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
