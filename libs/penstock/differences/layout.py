"""How a version's tensors lie, and the blocks in which they are compared: alike in two versions, or there is no
difference of them."""

import math
import os
from collections.abc import Iterator
from typing import NamedTuple

from penstock.tensors.manifest import ITEM_BYTES
from penstock.weights.v1 import weights_pb2 as pb

MOST_THREADS = 4
BLOCK_BYTES = 4 << 20
"""Of a tensor that are compared at once: a few copies of it fit a processor's cache, and 32 bits count its bytes."""

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, dtype and shape of every tensor, in order."""


def threads() -> int:
    """On which blocks are compared and made."""
    return min(MOST_THREADS, os.cpu_count() or 1)


class Block(NamedTuple):
    """A stretch of one tensor. item: bytes of an element; size is a multiple of it."""

    tensor: int
    start: int
    size: int
    item: int


def layout_of(manifest: pb.Manifest) -> Layout:
    """Of a version that passed check_manifest."""
    return tuple((t.name, t.dtype, tuple(t.shape)) for t in manifest.tensors)


def tensors_in(manifest: pb.Manifest, whole: memoryview) -> list[memoryview]:
    """The bytes of each tensor of a version that lies in one piece."""
    return [whole[t.offset : t.offset + t.size] for t in manifest.tensors]


def blocks(layout: Layout) -> Iterator[Block]:
    """The blocks of a version, in order; a tensor without a byte has none."""
    for index, (_, dtype, shape) in enumerate(layout):
        item = ITEM_BYTES[dtype]
        size = math.prod(shape) * item
        for start in range(0, size, BLOCK_BYTES):
            yield Block(index, start, min(BLOCK_BYTES, size - start), item)
