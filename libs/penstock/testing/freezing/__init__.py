"""Processes that are stopped, as hung ones look to their peers."""

import os
import pathlib
import signal
import time

WITHIN = 30.0


def freeze(pid: int) -> None:
    """Stops a process by SIGSTOP; returns once all of its threads stand still.

    The signal alone is no more than a wish: on a busy machine threads go on until the one that was told has had a
    processor, and may well answer a call that comes after it. Raises TimeoutError.
    """
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + WITHIN
    while not all(state == "T" for state in _states(pid)):
        if time.monotonic() > until:
            raise TimeoutError(f"process {pid} did not stop within {WITHIN:g} s")
        os.sched_yield()


def _states(pid: int) -> list[str]:
    found = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            found.append(path.read_text().rpartition(") ")[2][0])
        except (FileNotFoundError, ProcessLookupError):  # a thread that has ended
            continue
    return found
