"""Rank 0's view of log and ledger: gives the batch of each step, and writes every decision before it is acted on.

    ledger --fold--> Ledger ---.
    log ----decode--> Assembly-+--> judge: FILTERED | FAILED to the ledger
                               '--> BatchRecord to the ledger --> the batch

A step whose batch is in the ledger already (this learner is a restarted one) gets exactly that batch again.
"""

import asyncio
import logging
from collections.abc import Sequence

from penstock.bus import Bus, BusError, Fenced, RunNames, append, load_payload, read
from penstock.ledger import Ledger
from penstock.names import log_key
from penstock.telemetry import metrics
from penstock.telemetry.waits import progress, waiting
from penstock.trajectories import TrajectoryError, check, decode
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.sources import Sources
from services.learner.interface.group import CompleteGroup
from services.learner.leader.assembly import Assembly

logger = logging.getLogger(__name__)
_released = metrics.counter(metrics.GROUPS_RELEASED, "groups released", ["fate"])

REASONS = {
    "zero_variance": pb.FILTER_REASON_ZERO_VARIANCE,
    "pass_rate": pb.FILTER_REASON_PASS_RATE,
    "no_pair": pb.FILTER_REASON_NO_PAIR,
    "no_valid_sample": pb.FILTER_REASON_MASKED,
}


def _filtered(reason: str, reward: float | None) -> pb.Filtered:
    if reason in REASONS:
        return pb.Filtered(reason=REASONS[reason], reward=reward)
    return pb.Filtered(reason=pb.FILTER_REASON_OWN, name=reason, reward=reward)


class AnotherLearner(RuntimeError):
    """Somebody else records batches for this run: this learner must end."""


class Feed:
    """Batches for steps, in order. All coroutines run on one loop.

    Args:
        trained_step: the step the weights are at. cursor: log sequence to read after (both from the checkpoint).
        max_age: staleness.max_versions; an older group is EXPIRED instead of trained.
    """

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        *,
        groups_per_step: int,
        min_group_fraction: float,
        max_age: int,
        sources: Sources,
        trained_step: int,
        cursor: int,
        epoch: int,
    ) -> None:
        self.ledger = Ledger()
        self.log_sequence = cursor
        self._bus, self._names = bus, names
        self._fraction, self._max_age, self._sources, self._epoch = min_group_fraction, max_age, sources, epoch
        self._assembly = Assembly(self.ledger, groups_per_step, trained_step)
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Follows both streams and judges groups until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_ledger())
            tasks.create_task(self._follow_log())
            tasks.create_task(self._judge())

    async def batch(self, step: int, within: float) -> list[CompleteGroup] | None:
        """The batch of `step`, recorded in the ledger; None if it cannot be formed within `within` seconds."""
        missing = self._assembly.missing()
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        what = f"groups {listed}" if missing else f"the batch of step {step}"
        try:
            with waiting(what, on="rollout" if missing else "coordinator", deadline=within):
                async with asyncio.timeout(within):
                    async with self._changed:
                        await self._changed.wait_for(lambda: self._available(step) is not None)
        except TimeoutError:
            return None
        groups = self._available(step)
        assert groups is not None
        if step in self.ledger.batches:
            return groups
        expired = [g for g in groups if g.age(step - 1) > self._max_age]
        if expired:
            for group in expired:
                event = pb.LedgerEvent(group=group.name, expired=pb.Expired(age=group.age(step - 1)))
                await self._release(group, event)
            return await self.batch(step, within)
        await self._record(step, groups)
        return groups

    async def report(self, report: pb.StepReport) -> None:
        """Appends a step's report; a replayed step's changes nothing."""
        if report.step not in self.ledger.reports:
            await self._once(self._names.ledger_step_subject(report.step), report.SerializeToString())

    async def evaluated(self, report: pb.EvaluationReport) -> None:
        """Appends what held-out rows say of a version; a version that was measured before keeps what was said."""
        if report.step not in self.ledger.evaluations:
            await self._once(self._names.ledger_eval_subject(report.step), report.SerializeToString())

    async def _once(self, subject: str, payload: bytes) -> None:
        try:
            await append(self._bus, subject, payload, expected_last_sequence=0, within=120)
        except Fenced:
            logger.info("%s was reported before", subject)
        progress()

    def trained(self, step: int) -> None:
        """The weights are now at `step`."""
        self._assembly.trained(step)

    def cursor(self) -> int:
        """The log position that belongs to the current weights (see Assembly.cursor)."""
        return self._assembly.cursor(self.log_sequence)

    async def caught_up(self, sequence: int) -> None:
        """Waits until the ledger is folded up to `sequence`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.ledger.sequence >= sequence)

    def _available(self, step: int) -> list[CompleteGroup] | None:
        record = self.ledger.batches.get(step)
        return self._assembly.recorded(record) if record is not None else self._assembly.next_batch()

    async def _record(self, step: int, groups: Sequence[CompleteGroup]) -> None:
        record = pb.BatchRecord(step=step, writer_epoch=self._epoch, groups=[g.record() for g in groups])
        record.at.GetCurrentTime()
        subject = self._names.ledger_batch_subject(step)
        try:
            sequence = await append(
                self._bus, subject, record.SerializeToString(), expected_last_sequence=0, within=120
            )
        except Fenced as error:
            raise AnotherLearner(
                f"step {step} was recorded by another learner; this one (epoch {self._epoch}) ends"
            ) from error
        _released.labels("trained").inc(len(groups))
        with waiting(f"ledger entry {sequence}", on="nats", deadline=60):
            async with asyncio.timeout(60):
                await self.caught_up(sequence)

    async def _follow_ledger(self) -> None:
        async for entry in read(self._bus, self._names.ledger):
            self.ledger.apply(entry.subject, entry.payload, entry.sequence)
            await self._notify()

    async def _follow_log(self) -> None:
        async for entry in read(self._bus, self._names.log, after=self.log_sequence):
            try:
                t = decode(await load_payload(self._bus, self._names, entry.payload))
                check(t)
            except (TrajectoryError, BusError) as error:
                t = self._unusable(entry.subject, error)
            self._assembly.add(t, entry.sequence)
            self.log_sequence = entry.sequence
            await self._notify()

    def _unusable(self, subject: str, error: Exception) -> pb.Trajectory:
        """A message that is not a trajectory ends its sample as FAILED{invalid}: it is counted, never trained."""
        group, index = log_key(subject)
        logger.error("a log entry is not a usable trajectory: %s", error, extra={"group": group, "index": index})
        t = pb.Trajectory(run=self._names.run, group=group, index=index, kind=pb.TASK_KIND_TRAIN)
        t.outcome.status, t.outcome.failure = pb.Outcome.STATUS_FAILED, pb.Outcome.FAILURE_INVALID
        t.outcome.detail = str(error)
        return t

    async def _judge(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._assembly.unjudged()))
            for group in self._assembly.unjudged():
                event = self._verdict(group)
                if event is None:
                    self._assembly.keep(group)
                else:
                    await self._release(group, event)
            await self._notify()

    def _verdict(self, group: CompleteGroup) -> pb.LedgerEvent | None:
        """The terminal event of a group that must not be trained; None if it is usable."""
        if len(group.usable) < self._fraction * len(group.members):
            failed = pb.Failed()
            for m in group.members:
                if not m.usable:
                    failed.failures[pb.Outcome.Failure.Name(m.trajectory.outcome.failure)] += 1
                    failed.detail = m.trajectory.outcome.detail
            return pb.LedgerEvent(group=group.name, failed=failed)
        reason = self._sources.filter_reason(group)
        if reason is not None:
            return pb.LedgerEvent(group=group.name, filtered=_filtered(reason, group.reward))
        return None

    async def _release(self, group: CompleteGroup, event: pb.LedgerEvent) -> None:
        event.at.GetCurrentTime()
        event.writer, event.writer_epoch = "learner", self._epoch
        self._assembly.drop(group)
        admitted = self.ledger.groups[group.name].sequence
        subject = self._names.ledger_group_subject(group.name)
        try:
            await append(self._bus, subject, event.SerializeToString(), expected_last_sequence=admitted, within=120)
        except Fenced:
            # An earlier life of this learner decided the same and was killed before it knew.
            logger.info("group was released before", extra={"group": group.name})
        _released.labels(str(event.WhichOneof("event"))).inc()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
