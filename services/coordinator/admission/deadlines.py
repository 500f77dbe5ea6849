"""Ends groups whose time is over: every missing sample becomes FAILED{timeout}, published like any other sample. A
group whose task cannot be played is ended likewise, with the reason.

Time is counted by this process, from when it first saw the group (see penstock.rules.allowance): a clock that jumps,
and a night in which nothing of the run is there, end no group.

The log takes the first message of a sample's subject, so a late worker and this closer cannot both be right; whichever
came first is the sample's one end.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from penstock.bus import Bus, RunNames, StreamFull, publish_once, store_payload
from penstock.ledger import Group
from penstock.recipes import Recipe
from penstock.rules.allowance import allowance
from penstock.telemetry import metrics
from penstock.trajectories import encode, failed
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.state.following import TICK_SECONDS, Following
from services.coordinator.state.room import full_log

logger = logging.getLogger(__name__)

OVER = "the group's deadline passed"
# Workers end their samples at the deadline themselves, or after an outage of another team's service; this much later
# the coordinator does it for dead ones.
GRACE_SECONDS = 5.0
_passed_over = metrics.gauge(
    metrics.GROUPS_PASSED_OVER, "groups in flight beyond their deadline that steps behind their turn went on without"
)


class Deadlines:
    """Ends the overdue groups of one run, each once. give_up: called with the reason when the log has had no room for
    their ends for limits.stall_seconds. A group may outlast its deadline by the time of an outage."""

    def __init__(
        self, bus: Bus, names: RunNames, recipe: Recipe, following: Following, give_up: Callable[[str], None]
    ) -> None:
        self._bus, self._names, self._following, self._give_up = bus, names, following, give_up
        self._model, self._limits, self._bound = recipe.model.path, recipe.limits, recipe.staleness.max_versions
        self._extra = recipe.outage_seconds + GRACE_SECONDS
        self._due = dict[str, float]()  # when a group in flight is overdue, in seconds of the monotonic clock
        self._closed: set[str] = set()
        self._full_since: float | None = None  # seconds of the monotonic clock

    async def run(self) -> None:
        """Looks whenever something changed, and once a second; never ends."""
        while True:
            await self._following.changed(self._following.changes, TICK_SECONDS)
            late = self._overdue()
            _passed_over.set(passed_over(late, self._following.ledger.step, self._bound))
            left = [group for group in late if group.name not in self._closed]  # the learner releases those in its turn
            if not left:
                self._full_since = None
            for group in left:
                task = header_of(self._names, group)
                try:
                    await close(self._bus, self._names, task, self._model, pb.Outcome.FAILURE_TIMEOUT, OVER)
                except StreamFull:
                    await self._no_room(group)
                    break
                self._closed.add(group.name)
                self._full_since = None

    def _overdue(self) -> list[Group]:
        """The groups in flight whose time and grace are over, and the time of an outage that they may have had."""
        in_flight, now, clock = self._following.ledger.in_flight, time.monotonic(), time.time()
        full = self._limits.group_deadline_seconds
        seen = {
            name: self._due.get(name) or now + allowance(group.admitted.deadline, full, clock) + self._extra
            for name, group in in_flight.items()
        }
        self._due = seen
        return [group for name, group in in_flight.items() if seen[name] <= now]

    async def _no_room(self, group: Group) -> None:
        """Somebody may be about to trim the log, a learner that is starting for one; but nobody waits for ever."""
        now = time.monotonic()
        self._full_since = self._full_since or now
        if now - self._full_since >= self._limits.stall_seconds:
            self._give_up(f"{group.name} is overdue, and {full_log(self._limits)}")
            await self._following.notify()


def passed_over(late: Iterable[Group], step: int, bound: int) -> int:
    """How many of the overdue groups the learner should have released: they have all their ends, their turn is over.

    Of a group that is admitted at step v the batch is that of step v + bound + 1 at the latest (see `pacing`). A group
    that waits its turn is none of these, however long a step takes.
    """
    return sum(step - group.admitted.at_step > bound + 1 for group in late)


def header_of(names: RunNames, group: Group) -> pb.GroupTask:
    """What a sample that was never played says of its task: all that the ledger knows of it."""
    return pb.GroupTask(
        run=names.run,
        group=group.name,
        kind=pb.TASK_KIND_TRAIN,
        group_size=group.admitted.group_size,
        row=group.admitted.row,
    )


async def close(
    bus: Bus, names: RunNames, task: pb.GroupTask, model: str, failure: pb.Outcome.Failure, why: str
) -> int:
    """Ends the missing samples of a task's group; gives how many were missing."""

    async def end(index: int) -> bool:
        t = failed(task, index, model, failure, why)
        envelope = await store_payload(bus, names, encode(t))
        published = await publish_once(bus, names.log_subject(task.group, index), envelope)
        return published.first

    ended = sum(await asyncio.gather(*(end(i) for i in range(task.group_size))))
    if ended:
        logger.warning("a group was closed: %s", why, extra={"group": task.group, "missing": ended})
    return ended
