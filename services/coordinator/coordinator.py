"""One run's coordinator: admits work, evaluates, closes overdue groups, keeps the run's state.

It owns nothing. Everything it knows is folded from the ledger and the tail of the log, so it can be killed at any
moment and started anywhere: the next one reads the ledger, publishes the tasks of groups in flight again (the stream
refuses those it has) and goes on. Two at once do no harm either: both would admit the same groups under the same names,
and the ledger takes each once.
"""

import asyncio
import dataclasses
import datetime
import functools
import logging
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry import trace

from penstock import rpc
from penstock.bus import (
    Bucket,
    Bus,
    BusError,
    Fenced,
    RunNames,
    TaskConsumer,
    append,
    last_entry,
    load_payload,
    publish_once,
    read,
    stream_state,
)
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.ledger import Fate, Ledger
from penstock.process import DiskFull
from penstock.recipes import Recipe
from penstock.telemetry import metrics
from penstock.telemetry.tracing import inject
from penstock.telemetry.waits import progress, waiting
from penstock.trajectories import TrajectoryError, decode
from penstock.trajectory.v1 import trajectory_pb2
from services.coordinator import closing, evaluation
from services.coordinator.admission import Pacing, Place
from services.coordinator.dataset import Dataset
from services.coordinator.peers import Peers
from services.coordinator.sinks import Sink, write_summary
from services.coordinator.tasks import TaskMaker, group_name, group_number
from services.coordinator.view import RECENT, LogView

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)
_admitted = metrics.counter(metrics.SAMPLES_ADMITTED, "samples admitted")

TICK_SECONDS = 1.0
HOLD_SECONDS = 30.0
FAILED_GROUPS_IN_A_ROW = 4  # times groups_per_step: then the run is given up, with the reasons


@dataclasses.dataclass
class Services:
    """What the last look at the other services said."""

    tasks_pending: int = 0
    serving_step: int = 0
    versions: Any = None
    busy_looks: int = 0
    looks: int = 0


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
        self.ledger = Ledger()
        self.log = LogView()
        self.services = Services()
        self.state: pb.RunState = pb.RUN_STATE_STARTING
        self.reason = ""
        self.problem = ""
        self._written = 0
        self.bus, self.names = bus, names
        self._folder, self._sinks = folder, sinks
        held_out = Dataset(pathlib.Path(recipe.data.eval), recipe.data, shuffle=False) if recipe.data.eval else None
        train = Dataset(pathlib.Path(recipe.data.train), recipe.data, shuffle=recipe.data.shuffle)
        self._tasks = TaskMaker(recipe, train, held_out)
        algorithm = recipe.algorithm
        self._pacing = Pacing(recipe.staleness.max_versions, algorithm.groups_per_step, algorithm.steps)
        evaluates = held_out is not None and recipe.environment is not None
        self._planned = evaluation.schedule(recipe.evaluation.every, algorithm.steps) if evaluates else []
        self._given_up: set[int] = set()
        self._evaluated: dict[tuple[str, int], trajectory_pb2.Trajectory] = {}
        self._closed: set[str] = set()
        self._changed = asyncio.Condition()
        self._changes = 0
        self._paused = False
        self._stopping = False
        self._appended = 0
        self._started = time.time()

    # ---------------------------------------------------------------- the run

    async def run(self) -> None:
        """Runs until the run is done, stopped or failed; then serves what there is to see until cancelled."""
        await self._restore()
        async with asyncio.TaskGroup() as tasks:
            for work in (
                self._follow_ledger,
                self._follow_log,
                self._admit,
                self._watch_services,
                self._evaluate,
                self._close,
            ):
                tasks.create_task(work())

    async def changed(self, seen: int, within: float) -> int:
        """Waits until something changed since `seen`; gives the number to pass next time."""
        async with self._changed:
            try:
                async with asyncio.timeout(within):
                    await self._changed.wait_for(lambda: self._changes != seen)
            except TimeoutError:
                return seen
        return self._changes

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
        await self._notify()

    async def stop(self, reason: str) -> None:
        """Ends the run after the step in progress; the first reason stands.

        Raises rpc.RpcError if the learner cannot be asked.
        """
        if not self._stopping and not self.over:
            self._stopping, self.reason = True, reason
            self._set_state(pb.RUN_STATE_STOPPING)
            await self._notify()
        await self.peers.drain_learner()

    # ---------------------------------------------------------------- state

    async def _restore(self) -> None:
        last = (await stream_state(self.bus, self.names.ledger)).last_sequence
        with waiting(f"ledger up to {last}", on="nats", deadline=60):
            async for entry in read(self.bus, self.names.ledger, live=False):
                self.ledger.apply(entry.subject, entry.payload, entry.sequence)
        paused = await Bucket(self.bus, self.names).get("paused")
        self._paused = paused is not None and paused.value == b"1"
        self._set_state(pb.RUN_STATE_PAUSED if self._paused else pb.RUN_STATE_RUNNING)
        for group in list(self.ledger.in_flight.values()):
            await self._publish_task(group_number(group.name), group.admitted.min_step, group.admitted.deadline)
        logger.info("restored", extra={"step": self.ledger.step, "in_flight": len(self.ledger.in_flight)})
        self._write_steps()
        self._check_failures()

    async def _follow_ledger(self) -> None:
        async for entry in read(self.bus, self.names.ledger, after=self.ledger.sequence):
            self.ledger.apply(entry.subject, entry.payload, entry.sequence)
            self._write_steps()
            self._check_failures()
            await self._notify()
            progress()

    async def _follow_log(self) -> None:
        state = await stream_state(self.bus, self.names.log)
        async for entry in read(self.bus, self.names.log, after=max(0, state.last_sequence - RECENT)):
            try:
                t = decode(await load_payload(self.bus, self.names, entry.payload))
            except (TrajectoryError, BusError) as error:
                logger.warning("a log entry cannot be shown: %s", error, extra={"sequence": entry.sequence})
                continue
            self.log.add(t)
            if t.kind == trajectory_pb2.TASK_KIND_EVAL:
                self._evaluated[t.group, t.index] = t
                await self._notify()

    async def _notify(self) -> None:
        self._changes += 1
        async with self._changed:
            self._changed.notify_all()

    def _set_state(self, state: pb.RunState) -> None:
        if state != self.state and not self.over:
            self.state = state
            logger.info("run is %s", pb.RunState.Name(state).removeprefix("RUN_STATE_"), extra={"reason": self.reason})

    # ---------------------------------------------------------------- admission

    async def _admit(self) -> None:
        """Admits whenever the ledger moved and there is room."""
        while True:
            seen = self._changes
            # What this process appended must have come back through the ledger before it counts again.
            if self.ledger.sequence >= self._appended:
                for place in self._pacing.admissible(self.ledger):
                    if not self._admitting or not await self._admit_group(place):
                        break
            await self.changed(seen, TICK_SECONDS)

    @property
    def _admitting(self) -> bool:
        return not (self._paused or self._stopping or self.over)

    async def _admit_group(self, place: Place) -> bool:
        deadline = Timestamp()
        deadline.FromNanoseconds(time.time_ns() + int(self.recipe.limits.group_deadline_seconds * 1e9))
        turn, row = self._row(place.number)
        name = group_name(place.number)
        event = trajectory_pb2.LedgerEvent(group=name, writer="coordinator")
        event.at.GetCurrentTime()
        event.admitted.at_step = self.ledger.step
        event.admitted.min_step = place.min_step
        event.admitted.group_size = self.recipe.algorithm.group_size
        event.admitted.row = row
        setattr(event.admitted, "pass", turn)
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
            await self._publish_task(place.number, place.min_step, deadline)
        _admitted.inc(self.recipe.algorithm.group_size)
        return True

    async def _publish_task(self, number: int, min_step: int, deadline: Timestamp) -> None:
        task = self._tasks.training(number, min_step, deadline)
        subject = self.names.task_subject("train", task.group)
        await publish_once(self.bus, subject, task.SerializeToString(), headers=inject())

    def _row(self, number: int) -> tuple[int, int]:
        task = self._tasks.training(number, 0, Timestamp())
        return getattr(task, "pass"), task.row

    async def _close(self) -> None:
        """Ends groups whose time is over."""
        while True:
            await self.changed(self._changes, TICK_SECONDS)
            now = datetime.datetime.now(datetime.UTC)
            for group in closing.overdue(self.ledger.in_flight.values(), now):
                if group.name in self._closed:
                    continue  # ended in the log; the learner releases it when its turn comes
                task = self._tasks.training(group_number(group.name), group.admitted.min_step, group.admitted.deadline)
                await closing.close(self.bus, self.names, task, self.recipe.model.path)
                self._closed.add(group.name)

    def _check_failures(self) -> None:
        limit = FAILED_GROUPS_IN_A_ROW * self.recipe.algorithm.groups_per_step
        if len(self.ledger.groups) < limit or self.over:
            return
        released = [g for g in reversed(self.ledger.groups.values()) if g.fate is not Fate.IN_FLIGHT][:limit]
        if len(released) == limit and all(g.fate is Fate.FAILED for g in released):
            self.reason = f"the last {limit} groups all failed; the newest: {released[0].detail}"
            self._set_state(pb.RUN_STATE_FAILED)
            self._summarise(time.time())

    # ---------------------------------------------------------------- evaluation

    async def _evaluate(self) -> None:
        """Runs every planned evaluation in turn, each pinned to its version; ends the run after the last step."""
        while (step := evaluation.next_due(self._planned, self.ledger, self._given_up)) is not None:
            async with asyncio.TaskGroup() as tasks:
                holding = tasks.create_task(self._hold(step))
                await self._until(functools.partial(self._reached, step))
                if self._stopping:
                    holding.cancel()
                    break
                await self._evaluate_at(step)
                holding.cancel()
        try:
            await self.peers.release()
        except rpc.RpcError as error:
            logger.info("the hold is left to its lease: %s", error)
        steps = self.recipe.algorithm.steps
        await self._until(lambda: self._stopping or steps in self.ledger.reports)
        if self._stopping:
            await self._until_learner_ended()
        await self._look()
        await self._everything_written()
        self._set_state(pb.RUN_STATE_STOPPED if self._stopping else pb.RUN_STATE_DONE)
        self._summarise(time.time())
        await self._notify()

    async def _everything_written(self) -> None:
        """Waits for room on the disk: a run is not over before its metrics and its summary are whole."""
        with waiting("room on the disk", on=str(self._folder), deadline=None):
            self.problem = self.problem or "the summary is not written yet"
            while True:
                self._write_steps()
                if not self.problem:
                    return
                await asyncio.sleep(TICK_SECONDS)  # nobody announces room on a disk

    def _reached(self, step: int) -> bool:
        return self.ledger.step >= step or self._stopping

    async def _hold(self, step: int) -> None:
        while True:
            try:
                await self.peers.hold(step, HOLD_SECONDS)
            except rpc.RpcError as error:
                logger.info("weight_sync cannot be asked to hold version %d: %s", step, error)
            await asyncio.sleep(HOLD_SECONDS / 3)  # a lease is renewed well before it ends

    async def _evaluate_at(self, step: int) -> None:
        deadline = Timestamp()
        deadline.FromNanoseconds(time.time_ns() + int(self.recipe.limits.group_deadline_seconds * 1e9))
        tasks = self._tasks.evaluation(step, deadline)
        wanted = [(t.group, i) for t in tasks for i in range(t.group_size)]
        for task in tasks:
            await publish_once(self.bus, self.names.task_subject("eval", task.group), task.SerializeToString())
        await asyncio.gather(*(self._find_evaluated(group, index) for group, index in wanted))
        limit = self.recipe.limits.group_deadline_seconds + closing.GRACE.total_seconds()
        with waiting(f"evaluation of version {step}", on="rollout", deadline=limit):
            async with asyncio.timeout(limit) as bound:
                try:
                    await self._until(lambda: all(key in self._evaluated for key in wanted))
                except TimeoutError:
                    if not bound.expired():
                        raise
        samples = [self._evaluated.pop(key) for key in wanted if key in self._evaluated]
        try:
            result = evaluation.report(step, samples)
        except ValueError as error:
            logger.error("%s", error)
            self._given_up.add(step)
            return
        try:
            subject = self.names.ledger_eval_subject(step)
            await append(self.bus, subject, result.SerializeToString(), expected_last_sequence=0)
        except Fenced:
            logger.info("evaluation %d was recorded by another coordinator", step)
        await self._until(lambda: step in self.ledger.evaluations)
        logger.info("evaluated", extra={"step": step, "reward": result.metrics["reward"]})

    async def _find_evaluated(self, group: str, index: int) -> None:
        """Takes a sample that ended before this process looked: an evaluation goes on over restarts."""
        if (group, index) not in self._evaluated:
            entry = await last_entry(self.bus, self.names.log, self.names.log_subject(group, index))
            if entry is not None:
                self._evaluated[group, index] = decode(await load_payload(self.bus, self.names, entry.payload))

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)

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
            self._write_steps()
            await self._notify()
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

    def _write_steps(self) -> None:
        """Writes the steps that are not written. A full disk delays that, and is the run's problem, not its end."""
        new = [step for step in sorted(self.ledger.reports) if step > self._written]
        if not new and not self.problem:
            return
        try:
            for step in new:
                self._write_step(step)
                self._written = step
            self._summarise(time.time())
            self.problem = ""
        except DiskFull as error:
            if not self.problem:
                logger.error("%s", error, extra={"step": self._written + 1})
            self.problem = str(error)

    def _write_step(self, step: int) -> None:
        report = self.ledger.reports[step]
        numbers = {
            **report.metrics,
            "rl.tokens.generated_per_second": self.log.tokens_per_second(),
            "rl.tasks.pending": float(self.services.tasks_pending),
            "rl.groups.in_flight": float(len(self.ledger.in_flight)),
            "time": report.at.ToNanoseconds() / 1e9,
        }
        for sink in self._sinks:
            sink.write(step, numbers)

    def _summarise(self, now: float) -> None:
        write_summary(self._folder / "summary.json", self.summary(now))

    def summary(self, now: float) -> dict[str, Any]:
        """summary.json; the counts add up: admitted = trained + filtered + expired + failed + in_flight."""
        ledger, versions = self.ledger, self.services.versions
        reports = [ledger.reports[s].metrics for s in sorted(ledger.reports)]
        first_at = min((r.at.ToNanoseconds() / 1e9 for r in ledger.reports.values()), default=now)
        last_at = max((r.at.ToNanoseconds() / 1e9 for r in ledger.reports.values()), default=now)
        wall = sum(r.get("rl.step.seconds", 0.0) for r in reports)
        trained = sum(r.get("rl.tokens.trained", 0.0) for r in reports)
        generated = sum(r.get("rl.tokens.generated", 0.0) for r in reports)
        rewards = [r["rl.reward.mean"] for r in reports if "rl.reward.mean" in r]
        counts = ledger.samples
        return {
            "run": self.recipe.run,
            "status": pb.RunState.Name(self.state).removeprefix("RUN_STATE_").lower(),
            "reason": self.reason,
            "steps": len(ledger.reports),
            "wall_seconds": round(wall, 3),
            "reward_first": statistics.fmean(rewards[:5]) if rewards else None,
            "reward_last": statistics.fmean(rewards[-5:]) if rewards else None,
            "eval": [{"step": e.step, "version": e.step, **e.metrics} for _, e in sorted(ledger.evaluations.items())],
            "samples": {
                "admitted": counts.admitted,
                "trained": counts.trained,
                "filtered": counts.filtered,
                "expired": counts.expired,
                "failed": counts.failed,
                "in_flight": counts.in_flight,
            },
            "failures": ledger.failures,
            "tokens": {"generated": int(generated), "trained": int(trained)},
            "staleness": {
                "mean": statistics.fmean([r.get("rl.staleness.mean", 0.0) for r in reports] or [0.0]),
                "max": max([r.get("rl.staleness.max", 0.0) for r in reports] or [0.0]),
            },
            "versions_published": ledger.step,
            "weight_sync": {
                "full_bytes": versions.full_bytes if versions else 0,
                "sent_bytes": versions.sent_bytes if versions else 0,
                "seconds_p50": versions.transfer_median.ToNanoseconds() / 1e9 if versions else None,
                "pause_seconds_p50": versions.pause_median.ToNanoseconds() / 1e9 if versions else None,
            },
            "generator_utilisation": self.services.busy_looks / max(1, self.services.looks),
            "learner_utilisation": sum(r.get("rl.train.seconds", 0.0) for r in reports) / max(wall, 1e-9),
            "tokens_per_second": {
                "generate": generated / max(last_at - first_at, 1e-9),
                "train": trained / max(wall, 1e-9),
            },
        }
