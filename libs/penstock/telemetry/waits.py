"""A process-wide list of what is being waited for, so that a stall explains itself.

Every await on another process is wrapped in `waiting(...)`: it says what is awaited, who must act, and until when. The
diagnostics RPC of every server returns the list; the coordinator joins the lists of all services into one sentence.

Invariant (`test_a_wait_is_listed_exactly_while_it_is_open`): a wait is listed from the moment its block is entered
until it is left, whatever the way out.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Wait:
    """One open wait. Times are seconds since the Unix epoch; `deadline` is None where the wait renews itself.

    `idle`: the wait of a healthy process that listens for what may come; it never explains a stall.
    """

    what: str
    on: str
    since: float
    deadline: float | None
    idle: bool = False


class WaitRegistry:
    """The open waits of one process. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._open: dict[int, Wait] = {}
        self._progress_at: float | None = None

    @contextmanager
    def waiting(self, what: str, *, on: str, deadline: float | None, idle: bool = False) -> Iterator[None]:
        """Lists a wait while the block runs.

        Args:
            what: what is awaited, for people: "groups 812, 815".
            on: who must act: "rollout", "nats", an address.
            deadline: seconds from now at which the block gives up or retries by itself; None if it never does.
            idle: whether the process just listens for what may come. Only who waits can tell.
        """
        now = time.time()
        wait = Wait(what, on, now, None if deadline is None else now + deadline, idle)
        with self._lock:
            number = next(self._numbers)
            self._open[number] = wait
        try:
            yield
        finally:
            with self._lock:
                del self._open[number]

    def snapshot(self) -> list[Wait]:
        """The open waits, oldest first."""
        with self._lock:
            return list(self._open.values())

    def progress(self) -> None:
        """Records that the process has just finished a unit of its work."""
        self._progress_at = time.time()

    @property
    def progress_at(self) -> float | None:
        """When the process last finished a unit of its work, in seconds since the Unix epoch."""
        return self._progress_at


ITSELF = "itself"
"""Who must act where a process computes: nobody else does, and while it goes on nothing has stalled."""

REGISTRY = WaitRegistry()


def computing(what: str, *, usual: float | None, deadline: float) -> AbstractContextManager[None]:
    """Lists a computation while the block runs. usual: seconds that the like of it took, None for the first; deadline:
    seconds after which it is no longer taken for one."""
    told = what if usual is None else f"{what} (usually {usual:.0f} s)"
    return REGISTRY.waiting(told, on=ITSELF, deadline=deadline)


waiting = REGISTRY.waiting
snapshot = REGISTRY.snapshot
progress = REGISTRY.progress
