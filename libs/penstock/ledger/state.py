"""Folds ledger entries, in stream order, into what the run knows about every group.

Life of a group:  ADMITTED -> TRAINED (a BatchRecord names it) | FILTERED | EXPIRED | FAILED

Invariants (test names): every group is admitted once and released exactly once; samples always add up:
admitted = trained + filtered + expired + failed + in flight; an entry that would break one, or is no decision at all,
is quarantined and changes nothing. The first word stands: entries cannot be removed, and every reader folds the same.

Example, group_size 4: a batch that trained members 0, 1 and 3 of g00000007 adds 3 to `trained` and 1 to `failed`.
"""

import dataclasses
import datetime
import enum

from penstock.ledger.entries import read_decision
from penstock.names import training_group
from penstock.rules.quarantine import BadEntry, Quarantine
from penstock.trajectory.v1 import trajectory_pb2 as pb

# The kind of samples that ended well, in a group too many of whose samples did not.
OF_FAILED_GROUPS = "OTHERS_OF_FAILED_GROUPS"


class LedgerError(BadEntry):
    """The entry contradicts those before it."""


class Fate(enum.Enum):
    """Where a group is."""

    IN_FLIGHT = "IN_FLIGHT"
    TRAINED = "TRAINED"
    FILTERED = "FILTERED"
    EXPIRED = "EXPIRED"
    FAILED = "FAILED"


@dataclasses.dataclass(slots=True)
class Group:
    """One admitted group. `sequence` is the ledger sequence of its admission: the order of batches."""

    name: str
    sequence: int
    admitted: pb.Admitted
    admitted_at: datetime.datetime
    fate: Fate = Fate.IN_FLIGHT
    step: int | None = None
    detail: str = ""
    failures: dict[str, int] = dataclasses.field(default_factory=dict)  # of a FAILED group: members by kind
    reward: float | None = None  # mean over its scored members, once it is released


@dataclasses.dataclass(slots=True)
class SampleCounts:
    """Samples by where they are; they add up."""

    admitted: int = 0
    trained: int = 0
    filtered: int = 0
    expired: int = 0
    failed: int = 0

    @property
    def in_flight(self) -> int:
        return self.admitted - self.trained - self.filtered - self.expired - self.failed


class Ledger:
    """The state after the entries applied so far. `quarantine`: those that were set aside."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.in_flight: dict[str, Group] = {}
        self.batches: dict[int, pb.BatchRecord] = {}
        self.reports: dict[int, pb.StepReport] = {}
        self.evaluations: dict[int, pb.EvaluationReport] = {}
        self.samples = SampleCounts()
        self.sequence = 0
        self.next_number = 0  # of the next group to be admitted
        self.quarantine = Quarantine()
        self._refused: dict[str, int] = {}  # by subject: the newest entry that was set aside
        self.failures: dict[str, int] = {}  # samples of FAILED groups by kind; they add up
        self.failed: dict[int, list[Group]] = {}  # by step: FAILED groups between its batch and the one before
        self.draws: dict[str, int] = {}  # by source of tasks: where its next draw begins
        self.rewards: dict[tuple[str, int], list[float]] = {}  # by source and row: mean rewards of its groups, in order

    @property
    def step(self) -> int:
        """The newest step whose batch is recorded: the version that is made or being made."""
        return len(self.batches)

    def apply_event(self, event: pb.LedgerEvent, sequence: int) -> None:
        """Applies an entry of ledger.group.<group>."""
        self.sequence = sequence
        match event.WhichOneof("event"):
            case "admitted":
                self._admit(event, sequence)
            case "filtered":
                group = self._release(event.group, Fate.FILTERED)
                self._scored(group, event.filtered)
                reason = pb.FilterReason.Name(event.filtered.reason).removeprefix("FILTER_REASON_").lower()
                group.detail = event.filtered.name or reason
                self.samples.filtered += group.admitted.group_size
            case "expired":
                group = self._release(event.group, Fate.EXPIRED)
                group.detail = f"{event.expired.age} versions old"
                self.samples.expired += group.admitted.group_size
            case "failed":
                group = self._release(event.group, Fate.FAILED)
                group.detail = event.failed.detail
                self.samples.failed += group.admitted.group_size
                group.failures = dict(event.failed.failures)
                self.failed.setdefault(self.step + 1, []).append(group)
                rest = group.admitted.group_size - sum(group.failures.values())
                for name, count in {**group.failures, **({OF_FAILED_GROUPS: rest} if rest > 0 else {})}.items():
                    self.failures[name] = self.failures.get(name, 0) + count
            case None:
                raise LedgerError(f"ledger entry {sequence} for {event.group!r} says nothing")

    def apply_batch(self, record: pb.BatchRecord, sequence: int) -> None:
        """Applies an entry of ledger.batch.<step>: the terminal event of every group it names."""
        if record.step != self.step + 1:
            raise LedgerError(f"ledger entry {sequence}: batch of step {record.step} after step {self.step}")
        for part in record.groups:
            group = self._held(part.group, Fate.TRAINED)
            if max(part.indices, default=0) >= group.admitted.group_size:
                raise LedgerError(f"{part.group} has {group.admitted.group_size} members; {list(part.indices)} trained")
        self.sequence = sequence
        for part in record.groups:
            group = self._release(part.group, Fate.TRAINED)
            self._scored(group, part)
            group.step = record.step
            self.samples.trained += len(part.indices)
            self.samples.failed += group.admitted.group_size - len(part.indices)
        self.batches[record.step] = record

    def apply_report(self, report: pb.StepReport, sequence: int) -> None:
        """Applies an entry of ledger.step.<step>."""
        if not 0 < report.step <= self.step:
            raise LedgerError(f"ledger entry {sequence}: report of step {report.step}, which has no batch")
        self.sequence = sequence
        self.reports.setdefault(report.step, report)

    def apply_evaluation(self, report: pb.EvaluationReport, sequence: int) -> None:
        """Applies an entry of ledger.eval.<step>."""
        self.sequence = sequence
        self.evaluations.setdefault(report.step, report)

    def apply(self, subject: str, payload: bytes, sequence: int) -> None:
        """Applies a raw ledger entry; one that cannot be is quarantined."""
        try:
            match read_decision(subject, payload):
                case pb.LedgerEvent() as event:
                    self.apply_event(event, sequence)
                case pb.BatchRecord() as record:
                    self.apply_batch(record, sequence)
                case pb.StepReport() as report:
                    self.apply_report(report, sequence)
                case pb.EvaluationReport() as evaluation:
                    self.apply_evaluation(evaluation, sequence)
        except BadEntry as bad:
            self.quarantine.add("ledger", subject, sequence, bad)
            self._refused[subject] = self.sequence = sequence

    def last(self, subject: str, known: int = 0) -> int:
        """The sequence of a subject's last entry, as whoever appends to it must expect it: `known`, or that of an entry
        which was set aside behind it and must not be in the way for ever."""
        return max(known, self._refused.get(subject, 0))

    def _admit(self, event: pb.LedgerEvent, sequence: int) -> None:
        if event.group in self.groups:
            raise LedgerError(f"ledger entry {sequence} admits {event.group} a second time")
        group = Group(event.group, sequence, event.admitted, event.at.ToDatetime(datetime.UTC))
        self.groups[event.group] = self.in_flight[event.group] = group
        while training_group(self.next_number) in self.groups:
            self.next_number += 1
        self.samples.admitted += event.admitted.group_size
        self.draws[event.admitted.source] = event.admitted.draw + 1

    def _scored(self, group: Group, said: pb.BatchGroup | pb.Filtered) -> None:
        if said.HasField("reward"):
            group.reward = said.reward
            self.rewards.setdefault((group.admitted.source, group.admitted.row), []).append(said.reward)

    def _release(self, name: str, fate: Fate) -> Group:
        group = self._held(name, fate)
        group.fate = fate
        del self.in_flight[name]
        return group

    def _held(self, name: str, fate: Fate) -> Group:
        """The group in flight that is to be released."""
        group = self.groups.get(name)
        if group is None:
            raise LedgerError(f"{name} is {fate.value} but was never admitted")
        if group.fate is not Fate.IN_FLIGHT:
            raise LedgerError(f"{name} is {fate.value} but was {group.fate.value} before")
        return group
