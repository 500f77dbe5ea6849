"""Admits groups: an entry in the ledger first, then the task, as many as the pacing leaves room for.

The ledger takes each admission once, so two coordinators at once, or one that is killed between entry and task, do no
harm: both admit the same groups under the same names, and tasks in flight are published again after a restart.

    room in the ledger -> Slot -> Draw -> ledger entry -> task
"""

import logging
import time
from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry import trace

from penstock.bus import Bus, Fenced, RunNames, StreamFull, append, last_entry, publish_once
from penstock.datasets import DatasetError
from penstock.ledger import Group
from penstock.recipes import Recipe
from penstock.rules.quarantine import BadEntry
from penstock.telemetry import metrics
from penstock.telemetry.tracing import inject
from penstock.trajectories import read_task
from penstock.trajectory.v1 import trajectory_pb2
from services.coordinator.admission.deadlines import close, header_of
from services.coordinator.admission.draws import Draw
from services.coordinator.admission.pacing import Pacing, Slot
from services.coordinator.admission.tasks import TaskMaker
from services.coordinator.state.following import TICK_SECONDS, Following
from services.coordinator.state.run_state import RunState

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)
_admitted = metrics.counter(metrics.SAMPLES_ADMITTED, "samples admitted")


class Admission:
    """The admission of one run's training groups. give_up: called with the reason when one cannot be made."""

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        recipe: Recipe,
        following: Following,
        tasks: TaskMaker,
        state: RunState,
        give_up: Callable[[str], None],
    ) -> None:
        self._bus, self._names, self._following, self._tasks, self._state = bus, names, following, tasks, state
        self._give_up = give_up
        self._model, self._sources, self._tries = recipe.model.path, recipe.sources, recipe.canary is not None
        self._deadline_seconds = recipe.limits.group_deadline_seconds
        self._pacing = Pacing(recipe.staleness.max_versions, recipe.algorithm.groups_per_step, recipe.steps)

    async def run(self) -> None:
        """Admits whenever the ledger moved and there is room; never ends."""
        while True:
            seen = self._following.changes
            try:
                if self.admissible() and self._state.admitting:
                    # What this process or a twin appended must have come back through the ledger before it counts.
                    await self._following.current()
                    for slot, draw in self.admissible():
                        if not self._state.admitting or not await self.admit(slot, draw):
                            break
            except DatasetError as error:  # a row behind those that were tried
                self._give_up(str(error))
                await self._following.notify()
            await self._following.changed(seen, TICK_SECONDS)

    def admissible(self) -> list[tuple[Slot, Draw]]:
        """What there is room for now, with the rows it is about; under a rollback, or where versions are tried, what
        the version that is served may draw."""
        slots = self._pacing.admissible(self._following.ledger)
        served = self._following.ledger.rolled_back
        slots = [slot for slot in slots if served < 0 or slot.min_step <= served]
        if self._tries:
            slots = [slot for slot in slots if slot.min_step <= self._following.ledger.served]
        return list(zip(slots, self._tasks.drawing.draws(slots, self._following.ledger), strict=True))

    async def admit(self, slot: Slot, draw: Draw) -> bool:
        """False if the ledger has this group already."""
        deadline = Timestamp()
        deadline.FromNanoseconds(time.time_ns() + int(self._deadline_seconds * 1e9))
        task = self._tasks.training(slot.number, draw, slot.min_step, deadline)
        name = task.group
        event = trajectory_pb2.LedgerEvent(group=name, writer="coordinator")
        event.at.GetCurrentTime()
        event.admitted.at_step = self._following.ledger.step
        event.admitted.min_step = slot.min_step
        event.admitted.group_size = task.group_size
        event.admitted.row = draw.row
        setattr(event.admitted, "pass", draw.turn)
        event.admitted.source, event.admitted.draw = draw.source, draw.at
        event.admitted.deadline.CopyFrom(deadline)
        subject = self._names.ledger_group_subject(name)
        try:
            last = self._following.ledger.last(subject)
            await append(self._bus, subject, event.SerializeToString(), expected_last_sequence=last)
        except Fenced:
            return False  # admitted by an earlier life of this process or by a twin; the ledger will bring it
        with tracer.start_as_current_span("admit", attributes={"group": name, "min_step": slot.min_step}):
            await self._publish(task)
        _admitted.inc(task.group_size)
        return True

    async def publish_again(self, group: Group) -> None:
        """Publishes the task of an admitted group, which the stream takes once. A group that has none, because the
        ledger names a source or a row that is not there, ends as FAILED{invalid}."""
        try:
            task = self._tasks.admitted(group)
        except (DatasetError, ValueError, IndexError) as error:
            await self._end(header_of(self._names, group), str(error))
        else:
            await self._publish(task)

    async def _publish(self, task: trajectory_pb2.GroupTask) -> None:
        """Publishes a task. Where the stream has something else under its name, the group ends as FAILED{invalid}."""
        subject = self._names.task_subject("train", task.group)
        published = await publish_once(self._bus, subject, task.SerializeToString(), headers=inject())
        if published.first:
            return
        entry = await last_entry(self._bus, self._names.tasks, subject)
        if entry is None:
            return
        try:
            there = read_task(self._names, subject, entry.payload, self._sources)
            if (there.group_size, there.row) != (task.group_size, task.row):
                raise BadEntry(f"{subject!r} is of {there.group_size} samples of row {there.row}, not as admitted")
        except BadEntry as bad:
            self._following.quarantine.add("task", subject, entry.sequence, bad)
            await self._end(task, str(bad))

    async def _end(self, task: trajectory_pb2.GroupTask, why: str) -> None:
        """Ends a group that cannot be played. Where the log has no room, its deadline does so later."""
        try:
            await close(self._bus, self._names, task, self._model, trajectory_pb2.Outcome.FAILURE_INVALID, why)
        except StreamFull as full:
            logger.warning("%s is not ended yet: %s", task.group, full)
