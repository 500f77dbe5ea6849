"""What becomes of a complete group before it may be trained: usable, or released with a reason.

A group is judged the moment it is complete, not when its turn comes: one without signal gives its slot back at once.
Where versions are tried, one that a version on trial took part in waits for what is decided of that.

Invariant (test name): no token of a rejected version is trained.
"""

import logging

from penstock.bus import Bus, Fenced, RunNames, append
from penstock.ledger import Ledger
from penstock.telemetry import metrics
from penstock.trajectories import contexts
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.sources import Sources
from services.learner.interface.group import CompleteGroup
from services.learner.leader.epochs import Epoch
from services.learner.leader.follow import Following

logger = logging.getLogger(__name__)
RELEASED = metrics.counter(metrics.GROUPS_RELEASED, "groups released", ["fate"])

REJECTED = "drawn_by_rejected_version"
_REASONS = {
    "zero_variance": pb.FILTER_REASON_ZERO_VARIANCE,
    "pass_rate": pb.FILTER_REASON_PASS_RATE,
    "no_pair": pb.FILTER_REASON_NO_PAIR,
    "no_valid_sample": pb.FILTER_REASON_MASKED,
}


def verdict(group: CompleteGroup, min_fraction: float, sources: Sources) -> pb.LedgerEvent | None:
    """The terminal event of a group that must not be trained; None if it is usable. Pure.

    min_fraction: of its members that must have completed, or it has FAILED. So has one with a quarantined member:
    whoever wrote that may have written the others.
    """
    quarantined = any(m.quarantined for m in group.members)
    if quarantined or len(group.usable) < min_fraction * len(group.members):
        failed = pb.Failed()
        for m in group.members:
            if not m.usable:
                failed.failures[pb.Outcome.Failure.Name(m.trajectory.outcome.failure)] += 1
                failed.detail = m.trajectory.outcome.detail
        return pb.LedgerEvent(group=group.name, failed=failed)
    reason = sources.filter_reason(group)
    if reason is None:
        return None
    if reason in _REASONS:
        filtered = pb.Filtered(reason=_REASONS[reason], reward=group.reward)
    else:
        filtered = pb.Filtered(reason=pb.FILTER_REASON_OWN, name=reason, reward=group.reward)
    return pb.LedgerEvent(group=group.name, filtered=filtered)


def tried(group: CompleteGroup, ledger: Ledger) -> pb.LedgerEvent | bool:
    """Of a group where versions are tried: the terminal event of one that a rejected version drew a token of; else
    whether all its versions are decided of. Pure."""
    steps = {s.version.step for m in group.usable for c in contexts(m.trajectory) for s in c.version_segments}
    if rejected := sorted(step for step in steps if ledger.rejected(step)):
        filtered = pb.Filtered(reason=pb.FILTER_REASON_OWN, name=f"{REJECTED}_{rejected[0]}")
        return pb.LedgerEvent(group=group.name, filtered=filtered)
    return max(steps, default=0) <= ledger.promoted


class Judge:
    """Judges groups as they complete, and writes what it decides before anybody acts on it.

    trial: whether versions are tried before they are served, and what a rejected one drew is not trained.
    """

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        following: Following,
        sources: Sources,
        min_fraction: float,
        epoch: Epoch,
        *,
        trial: bool = False,
    ) -> None:
        self._trial = trial
        self._bus, self._names, self._following = bus, names, following
        self._sources, self._fraction, self._epoch = sources, min_fraction, epoch

    async def run(self) -> None:
        """Judges until cancelled."""
        assembly = self._following.assembly
        while True:
            await self._following.until(lambda: bool(self._ripe()))
            await self._epoch.check()
            await self._following.current()
            for group, event in self._ripe():
                event = event or verdict(group, self._fraction, self._sources)
                if event is None:
                    assembly.keep(group)
                else:
                    await self.release(group, event)
            await self._following.decided()

    def _ripe(self) -> list[tuple[CompleteGroup, pb.LedgerEvent | None]]:
        """The complete groups that can be judged now, with the event of those that their versions decide."""
        groups = self._following.assembly.unjudged()
        if not self._trial:
            return [(group, None) for group in groups]
        found = [(group, tried(group, self._following.ledger)) for group in groups]
        return [(group, None if event is True else event) for group, event in found if event is not False]

    async def release(self, group: CompleteGroup, event: pb.LedgerEvent) -> None:
        """Gives the group's slot back, for the reason that `event` has."""
        event.at.GetCurrentTime()
        event.writer, event.writer_epoch = "learner", self._epoch.number
        self._following.assembly.drop(group)
        ledger, subject = self._following.ledger, self._names.ledger_group_subject(group.name)
        while (held := ledger.in_flight.get(group.name)) is not None:
            last = ledger.last(subject, held.sequence)
            try:
                await append(self._bus, subject, event.SerializeToString(), expected_last_sequence=last, within=120)
                break
            except Fenced:
                # An earlier life decided the same and was killed before it knew, or an entry that is no decision.
                await self._following.current()
        RELEASED.labels(str(event.WhichOneof("event"))).inc()
