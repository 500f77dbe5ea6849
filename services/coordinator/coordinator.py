"""One run's coordinator: admits work, evaluates, closes overdue groups, keeps the run's state.

It owns nothing. Everything it knows is folded from the ledger and the tail of the log, so it can be killed at any
moment and started anywhere: the next one reads the ledger, publishes the tasks of groups in flight again (the stream
refuses those it has) and goes on. Two at once do no harm either: both would admit the same groups under the same names,
and the ledger takes each once.
"""

import asyncio
import datetime
import logging
import pathlib
import time
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry import trace

from penstock import rpc
from penstock.bus import Bucket, Bus, BusError, Fenced, RunNames, TaskConsumer, append, publish_once
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.ledger import Fate, Group
from penstock.recipes import Recipe
from penstock.telemetry import metrics
from penstock.telemetry.tracing import inject
from penstock.telemetry.waits import waiting
from penstock.trajectory.v1 import trajectory_pb2
from services.coordinator import closing
from services.coordinator.admission import Pacing, Place
from services.coordinator.alerts import Alerts
from services.coordinator.drawing import Draw
from services.coordinator.evaluating import Evaluator
from services.coordinator.explaining import explain
from services.coordinator.following import Following
from services.coordinator.peers import Peers
from services.coordinator.recording import Recorder
from services.coordinator.sinks import Sink
from services.coordinator.stalls import StallWatch
from services.coordinator.summary import Services, summarise
from services.coordinator.tasks import TaskMaker, group_number

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)
_admitted = metrics.counter(metrics.SAMPLES_ADMITTED, "samples admitted")
_stalled = metrics.gauge(metrics.STALLED, "1 while the run has stalled")

TICK_SECONDS = 1.0
FAILED_GROUPS_IN_A_ROW = 4  # times groups_per_step: then the run is given up, with the reasons


class Coordinator:
    """See the module. `run` does everything until the run is over; the gRPC façade reads the attributes."""

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        recipe: Recipe,
        folder: pathlib.Path,
        peers: Peers,
        sinks: list[Sink],
        chat: ChatTokenizer,
    ) -> None:
        self.recipe, self.chat, self.peers = recipe, chat, peers
        self.following = Following(bus, names)
        self.ledger, self.log = self.following.ledger, self.following.log
        self.services = Services()
        self.alerts = Alerts(recipe.telemetry.alerts)
        self.state: pb.RunState = pb.RUN_STATE_STARTING
        self.reason = ""
        self.stall = ""
        self.bus, self.names = bus, names
        self.recorder = Recorder(folder, sinks, self._around, self.summary)
        self._folder = folder
        self._tasks = TaskMaker(recipe)
        algorithm = recipe.algorithm
        self._pacing = Pacing(recipe.staleness.max_versions, algorithm.groups_per_step, recipe.steps)
        self._evaluator = Evaluator(recipe, self.following, self._tasks, peers, recipe.evaluation_steps)
        self._stalls = StallWatch(recipe.limits.stall_seconds)
        self._closed: set[str] = set()
        self._paused = False
        self._stopping = False
        self._asked = False
        self._appended = 0

    # ---------------------------------------------------------------- the run

    async def run(self) -> None:
        """Runs until the run is done, stopped or failed; then serves what there is to see until cancelled."""
        await self._restore()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.following.follow_ledger(self._moved))
            tasks.create_task(self.following.follow_log())
            for work in (self._admit, self._watch_services, self._evaluate_to_the_end, self._close):
                tasks.create_task(work())

    @property
    def over(self) -> bool:
        """Whether nothing will be admitted any more."""
        return self.state in (pb.RUN_STATE_DONE, pb.RUN_STATE_STOPPED, pb.RUN_STATE_FAILED)

    async def pause(self, paused: bool) -> None:
        """Stops or resumes admission, also over restarts of this process."""
        self._paused = paused
        await Bucket(self.bus, self.names).put("paused", b"1" if paused else b"0")
        if not self._stopping:
            self._set_state(pb.RUN_STATE_PAUSED if paused else pb.RUN_STATE_RUNNING)
        await self.following.notify()

    async def stop(self, reason: str) -> None:
        """Ends the run after the step in progress; the first reason stands.

        Raises rpc.RpcError if the learner cannot be asked.
        """
        if not self._stopping and not self.over:
            self._stopping, self._asked, self.reason = True, True, reason
            self._set_state(pb.RUN_STATE_STOPPING)
            await self.following.notify()
        await self.peers.drain_learner()

    # ---------------------------------------------------------------- state

    async def _restore(self) -> None:
        await self.following.restore()
        paused = await Bucket(self.bus, self.names).get("paused")
        self._paused = paused is not None and paused.value == b"1"
        self._set_state(pb.RUN_STATE_PAUSED if self._paused else pb.RUN_STATE_RUNNING)
        for group in list(self.ledger.in_flight.values()):
            await self._publish_task(self._task_of(group))
        logger.info("restored", extra={"step": self.ledger.step, "in_flight": len(self.ledger.in_flight)})
        self._moved()

    def _moved(self) -> None:
        """The ledger is longer than before."""
        self.alerts.see(self.ledger.reports)
        self.recorder.write(self.ledger.reports)
        self._check_failures()

    def _set_state(self, state: pb.RunState) -> None:
        if state != self.state and not self.over:
            self.state = state
            logger.info("run is %s", pb.RunState.Name(state).removeprefix("RUN_STATE_"), extra={"reason": self.reason})

    # ---------------------------------------------------------------- admission

    async def _admit(self) -> None:
        """Admits whenever the ledger moved and there is room."""
        while True:
            seen = self.following.changes
            # What this process appended must have come back through the ledger before it counts again.
            if self.ledger.sequence >= self._appended:
                places = self._pacing.admissible(self.ledger)
                for place, draw in zip(places, self._tasks.drawing.draws(places, self.ledger), strict=True):
                    if not self._admitting or not await self._admit_group(place, draw):
                        break
            await self.following.changed(seen, TICK_SECONDS)

    @property
    def _admitting(self) -> bool:
        return not (self._paused or self._stopping or self.over)

    async def _admit_group(self, place: Place, draw: Draw) -> bool:
        deadline = Timestamp()
        deadline.FromNanoseconds(time.time_ns() + int(self.recipe.limits.group_deadline_seconds * 1e9))
        task = self._tasks.training(place.number, draw, place.min_step, deadline)
        name = task.group
        event = trajectory_pb2.LedgerEvent(group=name, writer="coordinator")
        event.at.GetCurrentTime()
        event.admitted.at_step = self.ledger.step
        event.admitted.min_step = place.min_step
        event.admitted.group_size = task.group_size
        event.admitted.row = draw.row
        setattr(event.admitted, "pass", draw.turn)
        event.admitted.source, event.admitted.draw = draw.source, draw.at
        event.admitted.deadline.CopyFrom(deadline)
        try:
            sequence = await append(
                self.bus, self.names.ledger_group_subject(name), event.SerializeToString(), expected_last_sequence=0
            )
        except Fenced as error:
            # Admitted by an earlier life of this process or by a twin; the ledger will bring it.
            self._appended = max(self._appended, error.current)
            return False
        self._appended = sequence
        with tracer.start_as_current_span("admit", attributes={"group": name, "min_step": place.min_step}):
            await self._publish_task(task)
        _admitted.inc(task.group_size)
        return True

    async def _publish_task(self, task: trajectory_pb2.GroupTask) -> None:
        subject = self.names.task_subject("train", task.group)
        await publish_once(self.bus, subject, task.SerializeToString(), headers=inject())

    def _task_of(self, group: Group) -> trajectory_pb2.GroupTask:
        """The task of an admitted group, the very one that was published."""
        admitted = group.admitted
        return self._tasks.training(
            group_number(group.name), Draw.recorded(admitted), admitted.min_step, admitted.deadline
        )

    async def _close(self) -> None:
        """Ends groups whose time is over."""
        while True:
            await self.following.changed(self.following.changes, TICK_SECONDS)
            now = datetime.datetime.now(datetime.UTC)
            for group in closing.overdue(self.ledger.in_flight.values(), now):
                if group.name in self._closed:
                    continue  # ended in the log; the learner releases it when its turn comes
                await closing.close(self.bus, self.names, self._task_of(group), self.recipe.model.path)
                self._closed.add(group.name)

    def _check_failures(self) -> None:
        limit = FAILED_GROUPS_IN_A_ROW * self.recipe.algorithm.groups_per_step
        if len(self.ledger.groups) < limit or self.over:
            return
        released = [g for g in reversed(self.ledger.groups.values()) if g.fate is not Fate.IN_FLIGHT][:limit]
        if len(released) == limit and all(g.fate is Fate.FAILED for g in released):
            self.reason = f"the last {limit} groups all failed; the newest: {released[0].detail}"
            self._set_state(pb.RUN_STATE_FAILED)
            self.recorder.hold_up()
            self.recorder.write(self.ledger.reports)

    # ---------------------------------------------------------------- the end

    async def _evaluate_to_the_end(self) -> None:
        """Runs the planned evaluations; ends the run after its last step, or when it was stopped."""
        await self._evaluator.run(lambda: self._stopping)
        steps = self.recipe.steps
        if self._evaluator.reached and steps not in self.ledger.reports:
            await self._finish_early(self._evaluator.reached)
        await self.following.until(lambda: self._stopping or not steps or steps in self.ledger.reports)
        if self._stopping:
            await self._until_learner_ended()
        await self._look()
        if not steps and not self.ledger.evaluations:
            self.reason = "no sample was scored; the log of the rollout service says why"
            self._set_state(pb.RUN_STATE_FAILED)
        await self._everything_written()
        self._set_state(pb.RUN_STATE_STOPPED if self._asked else pb.RUN_STATE_DONE)
        self.recorder.summarise()
        await self.following.notify()

    async def _everything_written(self) -> None:
        """Waits for room on the disk: a run is not over before its metrics and its summary are whole."""
        with waiting("room on the disk", on=str(self._folder), deadline=None):
            self.recorder.hold_up()
            while True:
                self.recorder.write(self.ledger.reports)
                if not self.recorder.problem:
                    return
                await asyncio.sleep(TICK_SECONDS)  # nobody announces room on a disk

    async def _finish_early(self, reason: str) -> None:
        """Nothing more is admitted; the learner exports what it has."""
        self._stopping, self.reason = True, reason
        self._set_state(pb.RUN_STATE_STOPPING)
        with waiting("the learner to hear that the run is over", on="learner", deadline=None):
            while True:
                try:
                    await self.peers.drain_learner(finish=True)
                    return
                except rpc.RpcError as error:
                    logger.info("the learner cannot be asked to finish yet: %s", error)
                    await asyncio.sleep(TICK_SECONDS)  # it is being started again

    async def _until_learner_ended(self) -> None:
        """The learner writes its checkpoint before it ends; it is gone or done within its own bounds."""
        with waiting("the learner's checkpoint", on="learner", deadline=120):
            for _ in range(120):
                if await self.peers.learner() is None:
                    return
                await asyncio.sleep(TICK_SECONDS)

    # ---------------------------------------------------------------- what is seen

    async def _watch_services(self) -> None:
        """Looks at queue, engines and versions about once a second."""
        while True:
            await self._look()
            await self._check_stall()
            self.recorder.write(self.ledger.reports)
            await self.following.notify()
            await asyncio.sleep(TICK_SECONDS)  # these services announce no changes; a look a second is cheap

    async def _look(self) -> None:
        s = self.services
        try:
            backlog = await TaskConsumer(self.bus, self.names, "train").backlog()
            s.tasks_pending = backlog.pending
        except BusError as error:
            logger.debug("no backlog yet: %s", error)
        found = await self.peers.engines()
        if found:
            s.serving_step = min(e.version.step for e in found)
            s.looks += 1
            s.busy_looks += any(e.running for e in found)
        s.versions = await self.peers.versions() or s.versions

    async def _check_stall(self) -> None:
        """Says once, in the log and in the run's status, why nothing has moved for limits.stall_seconds."""
        expected = self.state in (pb.RUN_STATE_RUNNING, pb.RUN_STATE_STOPPING)
        now = time.monotonic()
        begins = self._stalls.look((self.ledger.sequence, self.log.count), expected, now)
        if begins:
            why = explain(await self.peers.waits())
            self.stall = f"nothing has moved for {self._stalls.seconds(now):.0f} s: {why}"
            logger.warning("the run has stalled: %s", self.stall)
        elif not self._stalls.stalled:
            self.stall = ""
        _stalled.set(self._stalls.stalled)

    def _around(self) -> dict[str, float]:
        """What metrics.jsonl says of the run at the moment of a step."""
        return {
            "rl.tokens.generated_per_second": self.log.tokens_per_second(),
            "rl.tasks.pending": float(self.services.tasks_pending),
            "rl.groups.in_flight": float(len(self.ledger.in_flight)),
        }

    def summary(self) -> dict[str, Any]:
        """What summary.json says now."""
        status = pb.RunState.Name(self.state).removeprefix("RUN_STATE_").lower()
        head = {"run": self.recipe.run, "status": status, "reason": self.reason}
        told = [{"step": a.step, "until": a.until, "alert": str(a)} for a in self.alerts.raised]
        return head | summarise(self.ledger, self.services, time.time()) | {"alerts": told}
