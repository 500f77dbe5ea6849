"""As many processes of a kind on this host as are wanted: which to start and which to end, and doing it.

Invariant (test name): names that stay are kept, the newest go first, and a name that is free is taken again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from penstock.supervisor.plan import Service, kind_of
from penstock.supervisor.supervisor import Supervisor

logger = logging.getLogger(__name__)
SCALED = ("generation", "environment", "adapters", "gateway", "rollout", "teacher", "relay")
"""Kinds of which a run may have any number, at any time."""
MOST = 256
LEARNER = "learner"
"""Of which a host keeps one process, where `penstock join` is told so: all ranks, or one node of several."""


def joined_counts_of(words: Sequence[str]) -> dict[str, int]:
    """What `generation=3 learner=1` says where a host joins. Raises ValueError, in one sentence, for anything else."""
    own = [word for word in words if word.partition("=")[0] == LEARNER]
    for word in own:
        if word != f"{LEARNER}=1":
            raise ValueError(
                f"{word!r}: a host keeps one process of the learner, or one node of learner.nodes; say learner=1"
            )
    return {**counts_of([word for word in words if word not in own]), **({LEARNER: 1} if own else {})}


def counts_of(words: Sequence[str]) -> dict[str, int]:
    """What `generation=3 rollout=2` says. Raises ValueError, in one sentence, for anything else."""
    found: dict[str, int] = {}
    for word in words:
        kind, equals, count = word.partition("=")
        if not equals or kind not in SCALED or not count.isdigit() or int(count) > MOST:
            raise ValueError(
                f"{word!r}: it must be KIND=COUNT, COUNT at most {MOST} and KIND one of {', '.join(SCALED)}"
            )
        found[kind] = int(count)
    return found


def moves(have: Sequence[str], kind: str, count: int, place: str = "") -> tuple[list[str], list[str]]:
    """The names to start and the names to end, so that `count` of a kind are there (pure).

    place: stands in the names of a host other than the run's first.
    """
    start = f"{kind}-{place}-" if place else f"{kind}-"
    mine = sorted((name for name in have if name.startswith(start)), key=_number)
    free = (name for i in range(MOST + len(mine)) if (name := f"{start}{i}") not in mine)
    new = [next(free) for _ in range(count - len(mine))]
    return new, list(reversed(mine[count:])) if count < len(mine) else []


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


class Scaling:
    """The processes of one host. make: the service of a name."""

    def __init__(
        self, supervisor: Supervisor, make: Callable[[str], Service], names: Sequence[str], place: str
    ) -> None:
        self._supervisor, self._make, self._names, self._place = supervisor, make, list(names), place

    @property
    def names(self) -> Sequence[str]:
        """The processes that are kept."""
        return self._names

    async def reach(self, wanted: Mapping[str, int]) -> None:
        """Starts and ends processes until so many of each kind are kept; those that end are drained first.

        Raises ValueError for a kind that the run does not have.
        """
        for kind, count in wanted.items():
            new, gone = moves([n for n in self._names if kind_of(n) == kind], kind, count, self._place)
            for name in new:
                service = self._make(name)
                self._names.append(name)
                self._supervisor.add(service, self._lost)
            for name in gone:
                self._names.remove(name)
            logger.info("scaled", extra={"kind": kind, "count": count, "started": new, "ended": gone})
            await asyncio.gather(*(self._supervisor.remove(name) for name in gone))

    def _lost(self, name: str) -> None:
        if name in self._names:
            self._names.remove(name)
