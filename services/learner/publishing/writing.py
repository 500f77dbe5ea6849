"""Puts a version into weight_sync's own file, where that is on this host and may be written: one copy, and no socket.

weight_sync says which file (`BeginVersionResponse`), checks it when it is told that all is there, and takes none that
is still open; so the file is closed first.

Invariant (test name): nothing is written but into a staged file of the right size.
"""

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

logger = logging.getLogger(__name__)

PIECE_BYTES = 8 << 20
MOST_THREADS = 4
STAGED = ".staging"
"""What the names of weight_sync's files end with until they are committed."""


Piece = tuple[int, memoryview]
"""Bytes, and where they begin."""


def write(place: str, size: int, pieces: Sequence[Piece]) -> bool:
    """Writes pieces into a file that has `size` bytes; False where that cannot be done here."""
    if not place.endswith(STAGED):
        return False
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        logger.info("weight_sync's file is not written here: %s", error)
        return False
    try:
        found = os.fstat(descriptor)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
        if not ours or found.st_size != size:
            logger.warning("%s is not weight_sync's file of %d bytes: all is pushed", place, size)
            return False
        with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), "writing") as threads:
            list(threads.map(lambda piece: _put(descriptor, *piece), _cut(pieces)))
    except OSError as error:
        logger.warning("weight_sync's file cannot be written, all is pushed: %s", error)
        return False
    finally:
        os.close(descriptor)
    return True


def _cut(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """What is written at once."""
    for offset, data in pieces:
        for start in range(0, len(data), PIECE_BYTES):
            yield offset + start, data[start : start + PIECE_BYTES]


def _put(descriptor: int, offset: int, data: memoryview) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
