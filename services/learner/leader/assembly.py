"""From samples in the log to batches, as a pure function of log and ledger: no clock, no network, no arrival order.

    log sample -> group complete -> judged: filtered | failed | usable -> n usable groups in admission order -> batch

Batches are formed in admission order, strictly: a group that is not complete yet holds back those behind it, so long
completions are trained as often as they are generated. Judging does not wait for its turn: a group without signal gives
its slot back at once.

Example, n = 2, in flight g0 (complete), g1 (zero variance), g2 (missing a sample), g3 (complete): g1 is filtered now;
no batch can be formed before g2 is complete, then it is g0 + g2, whatever order samples came in.

A restarted learner finds batches in the ledger that its checkpoint has not seen; their samples are kept for replay.

Invariants (test names): the batches depend on the log and the ledger only; a sample of a released group is ignored,
whenever and however often it arrives; every sample is in at most one batch; a group is complete when every index below
its size has ended, whatever else was published under its name.
"""

from penstock.ledger import Fate, Ledger
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.group import CompleteGroup, Member


class Assembly:
    """Groups as they fill. `ledger` is folded by its owner; `trained_step` is the step the weights are at."""

    def __init__(self, ledger: Ledger, groups_per_step: int, trained_step: int) -> None:
        self._ledger, self._n, self._trained_step = ledger, groups_per_step, trained_step
        self._members: dict[str, dict[int, Member]] = {}
        self._usable: dict[str, CompleteGroup] = {}
        self._decided: set[str] = set()

    def add(self, trajectory: pb.Trajectory, sequence: int, *, quarantined: bool = False) -> None:
        """Takes a sample from the log, or the end of one whose entry was set aside."""
        if trajectory.kind != pb.TASK_KIND_TRAIN or not self._wanted(trajectory.group):
            return
        members = self._members.setdefault(trajectory.group, {})
        members.setdefault(trajectory.index, Member(trajectory, sequence, quarantined))

    def unjudged(self) -> list[CompleteGroup]:
        """Complete groups in flight that have neither been found usable nor decided on."""
        return [
            self._complete(name)
            for name in self._ledger.in_flight
            if name not in self._usable and name not in self._decided and self._is_complete(name)
        ]

    def keep(self, group: CompleteGroup) -> None:
        """The group is usable."""
        self._usable[group.name] = group

    def drop(self, group: CompleteGroup) -> None:
        """The group gets a terminal event other than TRAINED; it is not looked at again."""
        self._decided.add(group.name)
        self._usable.pop(group.name, None)

    def forget_released(self) -> None:
        """Frees the samples of groups that were released and are not to be replayed."""
        for name in [n for n in self._members if not self._wanted(n)]:
            del self._members[name]
            self._usable.pop(name, None)
            self._decided.discard(name)

    def next_batch(self) -> list[CompleteGroup] | None:
        """The groups of the next batch in admission order; None while one before them is incomplete."""
        batch: list[CompleteGroup] = []
        for name in sorted(self._ledger.in_flight):
            if name in self._decided:
                continue
            if name not in self._usable:
                return None
            batch.append(self._usable[name])
            if len(batch) == self._n:
                return batch
        return None

    def missing(self) -> list[str]:
        """The incomplete groups that hold back the next batch, oldest first."""
        waiting = [n for n in sorted(self._ledger.in_flight) if n not in self._usable and n not in self._decided]
        return waiting[: self._n]

    def recorded(self, record: pb.BatchRecord) -> list[CompleteGroup] | None:
        """The groups of a recorded batch, the very members it names; None while the log has not given them all."""
        batch = []
        for part in record.groups:
            members = self._members.get(part.group, {})
            if any(i not in members for i in part.indices):
                return None
            batch.append(CompleteGroup(part.group, tuple(members[i] for i in part.indices)))
        return batch

    def trained(self, step: int) -> None:
        """The weights are now at `step`."""
        self._trained_step = step
        self.forget_released()

    def cursor(self, read: int) -> int:
        """The log sequence from which a learner that starts at the current weights must read: every sample that is
        still needed lies after it. `read` is the last sequence read."""
        sequences = [m.sequence for members in self._members.values() for m in members.values()]
        return min(sequences, default=read + 1) - 1

    def _wanted(self, name: str) -> bool:
        group = self._ledger.groups.get(name)
        if group is None:  # not in the ledger yet (the two streams are read independently), or forgotten
            return not self._ledger.knows(name)
        if group.fate is Fate.IN_FLIGHT:
            return True
        return group.fate is Fate.TRAINED and group.step is not None and group.step > self._trained_step

    def _is_complete(self, name: str) -> bool:
        members = self._members.get(name, {})
        return all(i in members for i in range(self._ledger.groups[name].admitted.group_size))

    def _complete(self, name: str) -> CompleteGroup:
        members = self._members[name]
        size = self._ledger.groups[name].admitted.group_size
        return CompleteGroup(name, tuple(members[i] for i in range(size)))
