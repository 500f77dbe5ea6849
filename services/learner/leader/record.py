"""The batch of each step, and what the learner says of it: written to the ledger before it is acted on.

A step whose batch is in the ledger already (this learner is a restarted one) gets exactly that batch again, whoever
recorded it. A learner that was replaced meanwhile ends before it decides or says anything more.
"""

import asyncio
import logging
from collections.abc import Sequence

from penstock.bus import Bus, Fenced, RunNames, append
from penstock.ledger import Group
from penstock.snapshots import KEPT
from penstock.telemetry.waits import progress, waiting
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.checkpoints.resume import Position
from services.learner.interface.errors import CannotGoOn
from services.learner.interface.group import CompleteGroup
from services.learner.leader.epochs import Epoch
from services.learner.leader.follow import Following
from services.learner.leader.judge import RELEASED, Judge

logger = logging.getLogger(__name__)


class Batches:
    """Batches for steps, in order. All coroutines run on one loop.

    max_age: staleness.max_versions; an older group is EXPIRED instead of trained. schedule: what this learner records
    with a batch.
    """

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        following: Following,
        judge: Judge,
        max_age: int,
        epoch: Epoch,
        schedule: pb.Schedule,
    ) -> None:
        self._bus, self._names, self._following, self._judge = bus, names, following, judge
        self._max_age, self._epoch, self._schedule = max_age, epoch, schedule

    async def batch(self, step: int, within: float) -> list[CompleteGroup] | None:
        """The batch of `step`, recorded in the ledger; None if it cannot be formed within `within` seconds."""
        end = asyncio.get_running_loop().time() + within
        while True:
            await self._epoch.check()
            groups = await self._formed(step, end) if await self._folded(step, end) else None
            if groups is None:
                return None
            if step in self._following.ledger.batches:
                return _trainable(step, groups)
            if not await self._expired(step, groups):
                await self._record(step, groups)

    def schedule(self, step: int) -> pb.Schedule | None:
        """With which the batch of `step`, which is recorded, is trained; None if it was recorded without one."""
        record = self._following.ledger.batches[step]
        return record.schedule if record.HasField("schedule") else None

    def failed(self, step: int) -> Sequence[Group]:
        """The groups that failed between the batch of `step`, which is recorded, and the one before."""
        return tuple(self._following.ledger.failed.get(step, ()))

    async def report(self, report: pb.StepReport) -> None:
        """Appends a step's report; a replayed step's changes nothing. Raises AnotherLearner."""
        await self._epoch.check()
        if not self._following.ledger.reported(report.step):
            await self._once(self._names.ledger_step_subject(report.step), report.SerializeToString())

    async def evaluated(self, report: pb.EvaluationReport) -> None:
        """Appends what held-out rows say of a version; a version that was measured before keeps what was said."""
        if report.step not in self._following.ledger.evaluations:
            await self._once(self._names.ledger_eval_subject(report.step), report.SerializeToString())

    async def trained(self, step: int) -> None:
        """The weights are now at `step`: of what is long behind it only the counts stay in memory."""
        self._following.assembly.trained(step)
        self._following.ledger.forget(step - KEPT)

    async def position(self) -> Position:
        """What of the streams belongs to the current weights."""
        return Position(self._following.cursor(), self._following.ledger.sequence)

    async def _folded(self, step: int, end: float) -> bool:
        """Whether the ledger is folded up to what is its end now; False if it is not at `end` (the loop's time).

        Raises CannotGoOn if the step's batch is recorded and the log, read up to its end too, does not hold it: it was
        trimmed, and nobody waits for what was.
        """
        following = self._following
        try:
            async with asyncio.timeout_at(end):
                await following.current()
                record = following.ledger.batches.get(step)
                if record is None or following.assembly.recorded(record) is not None:
                    return True
                await following.log_current()
        except TimeoutError:
            return False
        if following.assembly.recorded(record) is None:
            raise CannotGoOn(f"the log does not hold all samples of the batch of step {step}, which is recorded")
        return True

    def _available(self, step: int) -> list[CompleteGroup] | None:
        assembly, record = self._following.assembly, self._following.ledger.batches.get(step)
        return assembly.recorded(record) if record is not None else assembly.next_batch()

    async def _formed(self, step: int, end: float) -> list[CompleteGroup] | None:
        """The groups of the step, once they are all there; None if they are not at `end` (the loop's time)."""
        missing = self._following.assembly.missing()
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        what = f"groups {listed}" if missing else f"the batch of step {step}"
        within = max(0.0, end - asyncio.get_running_loop().time())
        try:
            with waiting(what, on="rollout" if missing else "coordinator", deadline=within):
                async with asyncio.timeout_at(end):
                    await self._following.until(lambda: self._available(step) is not None)
        except TimeoutError:
            return None
        return self._available(step)

    async def _expired(self, step: int, groups: Sequence[CompleteGroup]) -> bool:
        """Whether groups were too old for the step; these are released."""
        expired = [g for g in groups if g.age(step - 1) > self._max_age]
        for group in expired:
            event = pb.LedgerEvent(group=group.name, expired=pb.Expired(age=group.age(step - 1)))
            await self._judge.release(group, event)
        return bool(expired)

    async def _record(self, step: int, groups: Sequence[CompleteGroup]) -> None:
        """Records the groups as the batch of the step, unless the ledger has got one meanwhile: it stands then."""
        record = pb.BatchRecord(step=step, writer_epoch=self._epoch.number, groups=[g.record() for g in groups])
        record.schedule.CopyFrom(self._schedule)
        record.at.GetCurrentTime()
        subject, ledger = self._names.ledger_batch_subject(step), self._following.ledger
        payload = record.SerializeToString()
        try:
            sequence = await append(
                self._bus, subject, payload, expected_last_sequence=ledger.last(subject), within=120
            )
        except Fenced as fenced:
            logger.warning("step %d was recorded by another learner: %s", step, fenced)
            return
        RELEASED.labels("trained").inc(len(groups))
        with waiting(f"ledger entry {sequence}", on="nats", deadline=60):
            async with asyncio.timeout(60):
                await self._following.caught_up(sequence)
        if step not in ledger.batches:
            raise CannotGoOn(f"the record of step {step} is quarantined: {ledger.quarantine.listed[-1].reason}")

    async def _once(self, subject: str, payload: bytes) -> None:
        try:
            last = self._following.ledger.last(subject)
            await append(self._bus, subject, payload, expected_last_sequence=last, within=120)
        except Fenced:
            logger.info("%s was reported before", subject)
        progress()


def _trainable(step: int, groups: list[CompleteGroup]) -> list[CompleteGroup]:
    """The groups of a recorded batch. Raises CannotGoOn if it names a sample that cannot be trained on."""
    for member in (m for g in groups for m in g.members if not m.usable):
        t = member.trajectory
        raise CannotGoOn(f"the batch of step {step} names {t.group}/{t.index}, which is {t.outcome.detail}")
    return groups
