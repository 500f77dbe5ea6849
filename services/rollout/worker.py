"""Takes group tasks, makes every sample of a group end in the log, and only then says the task is done.

A task may come again (a worker died, an acknowledgement was lost): samples that are in the log already are kept, so a
redelivery costs only what is missing. A task that keeps killing its workers is not run again: its missing samples end
as FAILED.

An entry that is no task of this run, or one that nobody can play, is quarantined and not delivered again. Its group, if
it has one, is ended by the coordinator, which knows how many samples it has.

Invariant (test name): when a task is acknowledged, every sample of its group is in the log, exactly once.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection

from opentelemetry import context as otel_context

from penstock.bus import Bus, BusError, RunNames, Task, TaskConsumer, last_entry, publish_once, store_payload
from penstock.rules.allowance import allowance, over_by_clock
from penstock.rules.quarantine import BadEntry, Quarantine
from penstock.telemetry import metrics
from penstock.telemetry.tracing import extract, inject
from penstock.telemetry.waits import progress
from penstock.trajectories import encode, failed, read_task, without_excess
from penstock.trajectory.v1 import trajectory_pb2 as pb

logger = logging.getLogger(__name__)
_finished = metrics.counter(metrics.SAMPLES_FINISHED, "samples by how they ended", ["status"])
_routes_dropped = metrics.counter(metrics.ROUTES_DROPPED, "samples that were too large with their routes")

# How long publishing one sample may take over restarts of NATS and a full log: generation pauses meanwhile.
PUBLISH_SECONDS = 600.0

Play = Callable[[pb.GroupTask, int, float], Awaitable[pb.Trajectory]]


class Worker:
    """Runs tasks with `play`, which gives the terminal trajectory of one sample and does not raise for failures."""

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        model: str,
        play: Play,
        sources: Collection[str] | None = None,
        group_seconds: float = math.inf,
    ) -> None:
        """sources: of tasks, that `play` knows; None where it knows any. group_seconds: the most a group may take."""
        self._bus, self._names, self._model, self._play, self._sources = bus, names, model, play, sources
        self._group_seconds = group_seconds
        self.quarantine = Quarantine()

    async def run(self, consumer: TaskConsumer) -> None:
        """Takes tasks for ever. Cancelling gives back those in progress."""
        async with asyncio.TaskGroup() as tasks:
            async for delivery in consumer:
                tasks.create_task(self._hold(delivery))

    async def _hold(self, delivery: Task) -> None:
        try:
            async with delivery:
                await self._group(delivery)
                await delivery.done()
        except* BusError as errors:
            # The task comes again by itself; whatever was published stays.
            first = errors.exceptions[0]
            logger.warning("task is left to be delivered again: %s", first, extra={"subject": delivery.subject})

    async def _group(self, delivery: Task) -> None:
        try:
            task = read_task(self._names, delivery.subject, delivery.payload, self._sources)
        except BadEntry as bad:
            self.quarantine.add("task", delivery.subject, delivery.sequence, bad)
            return
        missing = list(range(task.group_size))
        now = time.time()
        if delivery.deliveries > 1 or over_by_clock(task.deadline, now):  # then it may have been ended already
            found = await asyncio.gather(*(self._in_log(task.group, i) for i in missing))
            missing = [i for i, there in zip(missing, found, strict=True) if not there]
            logger.info("task came again, or late", extra={"group": task.group, "missing": len(missing)})
        until = time.monotonic() + allowance(task.deadline, self._group_seconds, now)
        token = otel_context.attach(extract(delivery.headers))
        try:
            async with asyncio.TaskGroup() as samples:
                for index in missing:
                    samples.create_task(self._sample(task, index, until, exhausted=delivery.exhausted))
        finally:
            otel_context.detach(token)
        progress()

    async def _sample(self, task: pb.GroupTask, index: int, until: float, *, exhausted: bool) -> None:
        if exhausted:
            detail = "every worker that ran this task died"
            t = failed(task, index, self._model, pb.Outcome.FAILURE_ENVIRONMENT, detail)
        else:
            t = await self._play(task, index, until)
        if without_excess(t):
            _routes_dropped.inc()
            logger.warning("the sample is too large with its routes, and goes without", extra={"group": task.group})
        envelope = await store_payload(self._bus, self._names, encode(t))
        subject = self._names.log_subject(task.group, index)
        await publish_once(self._bus, subject, envelope, headers=inject(), within=PUBLISH_SECONDS)
        _finished.labels(pb.Outcome.Status.Name(t.outcome.status).removeprefix("STATUS_").lower()).inc()

    async def _in_log(self, group: str, index: int) -> bool:
        return await last_entry(self._bus, self._names.log, self._names.log_subject(group, index)) is not None
