"""One block of a tensor as a difference from the block before: nothing, a few elements, all of them, or anew. Pure.

    SAME     no payload
    SPARSE   zstd of: elements that changed (4 bytes), of these those with a long gap (4 bytes); gap to the one before
             (1 byte each; 255: it is among the long gaps), long gaps (4 bytes each), old ^ new byte by byte
    XOR      zstd of old ^ new, byte by byte
    WHOLE    the new block

"Byte by byte" is all lowest bytes, then all second ones, and so on: what a small step changes stands together.

Invariant (test name): whatever bytes are given for a payload, they make a block of the right size or a DifferenceError,
and no more memory is taken than a few blocks.
"""

import enum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import zstandard

from penstock.tensors.manifest import Buffer

Bytes: TypeAlias = npt.NDArray[np.uint8]
Words: TypeAlias = npt.NDArray[np.unsignedinteger]
WORDS: dict[int, type[np.unsignedinteger]] = {2: np.uint16, 4: np.uint32}
LEVEL = 1
HEAD = 8
FAR = 255
DENSE = 4
"""Where one element in so many changed, their places cost more than the zeros between them."""


class DifferenceError(ValueError):
    """The bytes are no difference between these two versions."""


class Kind(enum.IntEnum):
    """What a record's payload is."""

    SAME = 0
    SPARSE = 1
    XOR = 2
    WHOLE = 3


def encode(old: Buffer, new: Buffer, item: int) -> tuple[Kind, bytes]:
    """The smallest record of `new`, of the size of `old`, whose elements have `item` bytes."""
    before, after = (np.frombuffer(each, WORDS[item]) for each in (old, new))
    changes: Words = np.bitwise_xor(before, after)
    places, changed = _changed(changes)
    if not places.size:
        return Kind.SAME, b""
    if places.size * DENSE < changes.size:
        kind, payload = Kind.SPARSE, _packed(_sparse(places, changed))
    else:
        kind, payload = Kind.XOR, _packed(_planes(changes).tobytes())
    whole = memoryview(new).cast("B")
    return (kind, payload) if len(payload) < len(whole) else (Kind.WHOLE, bytes(whole))


def apply(kind: int, payload: memoryview, block: Words) -> None:
    """Makes the block that `encode` was given of the one before, in place. Raises DifferenceError."""
    match kind:
        case Kind.SAME:
            if payload:
                raise DifferenceError(f"a block that is the same has {len(payload)} bytes of difference")
        case Kind.SPARSE:
            _change(_unpacked(payload, None, block.nbytes, block.itemsize), block)
        case Kind.XOR:
            planes = np.frombuffer(_unpacked(payload, block.nbytes, block.nbytes, block.itemsize), np.uint8)
            block ^= planes.reshape(block.itemsize, -1).T.copy().view(block.dtype).reshape(-1)
        case Kind.WHOLE:
            if len(payload) != block.nbytes:
                raise DifferenceError(f"a block of {block.nbytes} bytes is given anew with {len(payload)}")
            block[:] = np.frombuffer(payload, block.dtype)
        case _:
            raise DifferenceError(f"a record of kind {kind}")


def _changed(changes: Words) -> tuple[npt.NDArray[np.intp], Words]:
    """Where words are not 0, in order, and those words. Eight bytes at once are looked at first: most of them are."""
    each = 8 // changes.itemsize
    if changes.size % each:
        places = np.flatnonzero(changes != 0)
        return places, changes[places]
    rows = changes.view(np.uint64)
    found = np.flatnonzero(rows != 0)
    words: Words = rows[found].view(changes.dtype)
    which = np.flatnonzero(words != 0)
    return found[which // each] * each + which % each, words[which]


def _sparse(places: npt.NDArray[np.intp], changes: Words) -> bytes:
    gaps = np.diff(places, prepend=-1) - 1
    far = gaps[gaps >= FAR].astype("<u4")
    near = np.minimum(gaps, FAR).astype(np.uint8)
    head = np.array([places.size, far.size], "<u4")
    return b"".join((head.tobytes(), near.tobytes(), far.tobytes(), _planes(changes).tobytes()))


def _change(raw: bytes, words: Words) -> None:
    item = words.itemsize
    count, distant = (int(n) for n in np.frombuffer(raw, "<u4", 2))
    if len(raw) != HEAD + count * (1 + item) + 4 * distant or count > words.size:
        raise DifferenceError(f"{count} changes, {distant} of them far apart, in {len(raw)} bytes")
    near = np.frombuffer(raw, np.uint8, count, HEAD)
    gaps, far = near.astype(np.int64), near == FAR
    if int(far.sum()) != distant:
        raise DifferenceError(f"{int(far.sum())} long gaps are announced, and {distant} are there")
    gaps[far] = np.frombuffer(raw, "<u4", distant, HEAD + count)
    places = np.cumsum(gaps + 1) - 1
    if count and places[-1] >= words.size:
        raise DifferenceError(f"element {int(places[-1])} changes, in a block of {words.size}")
    planes = np.frombuffer(raw, np.uint8, count * item, HEAD + count + 4 * distant)
    words[places] ^= planes.reshape(item, -1).T.copy().view(words.dtype).reshape(-1)


def _planes(words: Words) -> Bytes:
    """All lowest bytes of the words, then all second ones, and so on."""
    return np.ascontiguousarray(words.view(np.uint8).reshape(words.size, -1).T)


def _packed(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=LEVEL).compress(raw)


def _unpacked(payload: memoryview, size: int | None, block: int, item: int) -> bytes:
    """The bytes of a frame: `size` of them, or where that is None what a SPARSE record of the block may have."""
    least, most = (HEAD, HEAD + block // item * (5 + item)) if size is None else (size, size)
    try:
        declared = zstandard.frame_content_size(payload)
        if not least <= declared <= most:
            raise DifferenceError(f"a record unpacks to {declared} bytes, in a block of {block}")
        raw: bytes = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(payload, max_output_size=declared)
    except (zstandard.ZstdError, MemoryError) as error:
        raise DifferenceError(f"a record cannot be unpacked: {error}") from error
    if len(raw) != declared:
        raise DifferenceError(f"a record of {declared} bytes has {len(raw)}")
    return raw
