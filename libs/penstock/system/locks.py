"""A folder that one process has to itself, by a lock of the kernel: whoever ends, by kill -9 too, leaves none.

Invariants (test names): a folder is one process's; a process that was killed leaves no lock.
"""

import fcntl
import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

LOCK = "lock"
"""The file that is locked; it stays, and says nothing."""
LOCKS = pathlib.Path("/proc/locks")


class InUse(RuntimeError):
    """Another process has the folder."""


@contextmanager
def alone(folder: pathlib.Path, instead: str) -> Iterator[None]:
    """The folder, which is there, is this process's alone for the block. instead: what one may do where it is not.

    Raises InUse, OSError.
    """
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
            named = f" ({holder})" if holder else ""
            raise InUse(f"{folder} is in use by another process{named}; {instead}") from None
        yield


def _holder(file: IO[str]) -> int | None:
    """The number of the process that has a file locked, if it can be told: in a container it may be another's."""
    found = os.fstat(file.fileno())
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    lines = LOCKS.read_text().splitlines() if LOCKS.exists() else []
    held = [fields[4] for line in lines if (fields := line.split())[1] == "FLOCK" and fields[5] == place]
    return int(held[0]) if held and held[0].isdigit() and held[0] != "0" else None
