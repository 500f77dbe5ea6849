"""How much of a server one kind of caller may take: calls in progress, and calls that begin.

Invariant (test name): a kind that takes its whole quota takes nothing of another's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from penstock.access import Quota
from penstock.rpc.errors import resource_exhausted

BURST_SECONDS = 5.0
"""A kind may begin what it is allowed in so many seconds at once."""


class Quotas:
    """The places of one server. clock: seconds."""

    def __init__(self, quotas: Mapping[str, Quota], clock: Callable[[], float] = time.monotonic) -> None:
        self._quotas: Mapping[str, Quota] = quotas
        self._clock = clock
        self._running: Counter[str] = Counter()
        self._begun: dict[str, tuple[float, float]] = {}  # since when, how many seconds' worth of calls are used up

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """A place for one call, for the block; a caller without a quota needs none. Raises an Abort."""
        quota = self._quotas.get(caller)
        if quota is None:
            yield
            return
        if self._running[caller] >= quota.at_once:
            raise resource_exhausted(f"{caller} has {quota.at_once} calls in progress here, the most that are taken")
        self._begin(caller, quota)
        self._running[caller] += 1
        try:
            yield
        finally:
            self._running[caller] -= 1

    def _begin(self, caller: str, quota: Quota) -> None:
        now = self._clock()
        since, used = self._begun.get(caller, (now, 0.0))
        used = max(0.0, used - (now - since)) + 1 / quota.per_second
        if used > BURST_SECONDS:
            raise resource_exhausted(f"{caller} begins more than {quota.per_second:g} calls a second here")
        self._begun[caller] = (now, used)
