"""Admits groups: an entry in the ledger first, then the task, as many as the pacing leaves room for.

The ledger takes each admission once, so two coordinators at once, or one that is killed between entry and task, do no
harm: both admit the same groups under the same names, and tasks in flight are published again after a restart.

    room in the ledger -> Slot -> Draw -> ledger entry -> task
"""

import time
from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry import trace

from penstock.bus import Bus, Fenced, RunNames, append, publish_once
from penstock.datasets import DatasetError
from penstock.ledger import Group
from penstock.recipes import Recipe
from penstock.telemetry import metrics
from penstock.telemetry.tracing import inject
from penstock.trajectory.v1 import trajectory_pb2
from services.coordinator.admission.draws import Draw
from services.coordinator.admission.pacing import Pacing, Slot
from services.coordinator.admission.tasks import TaskMaker
from services.coordinator.state.following import TICK_SECONDS, Following
from services.coordinator.state.run_state import RunState

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
        """What there is room for now, with the rows it is about."""
        slots = self._pacing.admissible(self._following.ledger)
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
        try:
            await append(
                self._bus, self._names.ledger_group_subject(name), event.SerializeToString(), expected_last_sequence=0
            )
        except Fenced:
            return False  # admitted by an earlier life of this process or by a twin; the ledger will bring it
        with tracer.start_as_current_span("admit", attributes={"group": name, "min_step": slot.min_step}):
            await self._publish(task)
        _admitted.inc(task.group_size)
        return True

    async def publish_again(self, group: Group) -> None:
        """Publishes the task of an admitted group, which the stream takes once."""
        await self._publish(self._tasks.admitted(group))

    async def _publish(self, task: trajectory_pb2.GroupTask) -> None:
        subject = self._names.task_subject("train", task.group)
        await publish_once(self._bus, subject, task.SerializeToString(), headers=inject())
