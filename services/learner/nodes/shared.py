"""Whether nodes share the folder of checkpoints: node 0 leaves a mark there, and every other must find it.

Ranks of all nodes write their shards of one checkpoint, and read others' under another layout: separate folders would
be found out when a resume fails, hours later.
"""

from __future__ import annotations

import os
import pathlib
import time

MARK = ".nodes"
SEEN_SECONDS = 20.0
"""Network file systems show a new file late."""
LOOK_SECONDS = 0.2


def leave_mark(checkpoints: pathlib.Path, mark: str) -> None:
    """For node 0. Raises OSError."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    partial = checkpoints / f"{MARK}.partial"
    partial.write_text(mark)
    os.replace(partial, checkpoints / MARK)


def find_mark(checkpoints: pathlib.Path, mark: str, seconds: float = SEEN_SECONDS) -> bool:
    """For the others: whether the mark is there, or comes within some seconds."""
    end = time.monotonic() + seconds
    while True:
        try:
            os.listdir(checkpoints)  # NFS looks again for what it thinks is not there
            if (checkpoints / MARK).read_text() == mark:
                return True
        except OSError:
            pass  # not there, or not yet
        if time.monotonic() > end:
            return False
        time.sleep(LOOK_SECONDS)  # a file announces nothing
