"""Folds ledger entries, in stream order, into what the run knows about every group.

Life of a group:  ADMITTED -> TRAINED (a BatchRecord names it) | FILTERED | EXPIRED | FAILED

Invariants (test names): every group is admitted once and released exactly once; samples always add up:
admitted = trained + filtered + expired + failed + in flight; an entry that would break one, or is no decision at all,
is quarantined and changes nothing. The first word stands: entries cannot be removed, and every reader folds the same.

A ledger grows as long as its run lasts; what is behind every checkpoint can be forgotten. Then the counts, and that its
groups were released, are known for ever, and the stream has the rest.

Example, group_size 4: a batch that trained members 0, 1 and 3 of g00000007 adds 3 to `trained` and 1 to `failed`.
"""

import dataclasses
import datetime
import enum

from penstock.ledger.entries import read_decision
from penstock.names import group_number, training_group
from penstock.rules import bounds
from penstock.rules.quarantine import BadEntry, Quarantine
from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1.weights_pb2 import Decision

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
    """One admitted group.

    Attributes:
        sequence: ledger sequence of its admission: the order of batches.
        step: once it is released, that of the batch which trained it, or of the first behind its end.
        failures: of a FAILED group: members by kind. reward: mean over its scored members, once it is released.
    """

    name: str
    sequence: int
    admitted: pb.Admitted
    admitted_at: datetime.datetime
    fate: Fate = Fate.IN_FLIGHT
    step: int | None = None
    detail: str = ""
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    reward: float | None = None


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
    """The state after the entries applied so far.

    Attributes:
        groups, batches, reports: those behind the step `forgotten`, and all groups in flight.
        step: the newest whose batch is recorded: the version that is made or being made.
        next_number: of the next group to be admitted. began: when the first was.
        quarantine: entries that were set aside. refused: by subject, the newest of them.
        failures: samples of FAILED groups by kind; they add up. failed: FAILED groups, by `step` of the group.
        draws: by source of tasks, where its next draw begins.
        rewards: by source and row, mean rewards of its groups, in order, the newest of them.
        recipes: with which the run went on, in order.
        decisions: by version, what was decided of it last. rolled_back: the version that was rolled back to, until
            somebody promotes what is served since, or a newer one; −1 where no rollback stands. taken_back: promoted
            versions that a rollback took back, until they are promoted again.
    """

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.in_flight: dict[str, Group] = {}
        self.batches: dict[int, pb.BatchRecord] = {}
        self.reports: dict[int, pb.StepReport] = {}
        self.evaluations: dict[int, pb.EvaluationReport] = {}
        self.recipes: list[pb.RecipeRecord] = []
        self.samples = SampleCounts()
        self.sequence = self.step = self.forgotten = self.next_number = 0
        self.rolled_back = -1
        self.taken_back: list[int] = []
        self.began: datetime.datetime | None = None
        self.quarantine = Quarantine()
        self.refused: dict[str, int] = {}
        self.failures: dict[str, int] = {}
        self.failed: dict[int, list[Group]] = {}
        self.draws: dict[str, int] = {}
        self.rewards: dict[tuple[str, int], list[float]] = {}
        self.decisions: dict[int, pb.VersionDecision] = {}

    def knows(self, name: str) -> bool:
        """Whether a group was admitted, be it forgotten since."""
        if name in self.groups:
            return True
        try:
            return group_number(name) < self.next_number
        except ValueError:
            return False

    def reported(self, step: int) -> bool:
        """Whether a step's report was there, be it forgotten since."""
        return 0 < step <= self.forgotten or step in self.reports

    @property
    def promoted(self) -> int:
        """The newest version that somebody promoted; 0 where nobody did, which is the model that everybody starts
        with."""
        return max(self._promoted(), default=0)

    @property
    def served(self) -> int:
        """The newest of them that no rollback took back: what is served."""
        return max((step for step in self._promoted() if step not in self.taken_back), default=0)

    def _promoted(self) -> list[int]:
        kept = (Decision.DECISION_PROMOTE, Decision.DECISION_ROLL_BACK)
        return [step for step, d in self.decisions.items() if d.decision in kept]

    def rejected(self, step: int) -> bool:
        """Whether a version was rejected, and not promoted since."""
        return step in self.decisions and self.decisions[step].decision == Decision.DECISION_REJECT

    def become(self, other: "Ledger") -> None:
        """Takes over the state of another, which is not to be used any more."""
        self.__dict__.update(other.__dict__)

    def forget(self, step: int) -> None:
        """Frees batches, reports and released groups up to `step`, or the newest; no one begins before it then."""
        step = min(step, self.step)
        if step <= self.forgotten:
            return
        self.forgotten = step
        for held in (self.batches, self.reports, self.failed):
            for old in [s for s in held if s <= step]:
                del held[old]
        standing = (self.promoted, self.served, self.rolled_back)
        for old in [s for s in self.decisions if s <= step and s not in standing]:
            del self.decisions[old]
        self.taken_back = [s for s in self.taken_back if s in self.decisions]
        before = training_group(self.next_number)
        for group in [g for g in self.groups.values() if g.step is not None and g.step <= step and g.name < before]:
            del self.groups[group.name]

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
            self.samples.trained += len(part.indices)
            self.samples.failed += group.admitted.group_size - len(part.indices)
        self.batches[record.step] = record
        self.step = record.step

    def apply_report(self, report: pb.StepReport, sequence: int) -> None:
        """Applies an entry of ledger.step.<step>."""
        if not 0 < report.step <= self.step:
            raise LedgerError(f"ledger entry {sequence}: report of step {report.step}, which has no batch")
        self.sequence = sequence
        if report.step > self.forgotten:
            self.reports.setdefault(report.step, report)

    def apply_evaluation(self, report: pb.EvaluationReport, sequence: int) -> None:
        """Applies an entry of ledger.eval.<step>."""
        self.sequence = sequence
        self.evaluations.setdefault(report.step, report)

    def apply_recipe(self, record: pb.RecipeRecord, sequence: int) -> None:
        """Applies an entry of ledger.recipe.<number>."""
        if record.number != len(self.recipes):
            raise LedgerError(f"ledger entry {sequence}: recipe {record.number} behind {len(self.recipes)} of them")
        self.sequence = sequence
        self.recipes.append(record)

    def apply_decision(self, decision: pb.VersionDecision, sequence: int) -> None:
        """Applies an entry of ledger.version.<step>."""
        if decision.step > self.step:
            raise LedgerError(f"ledger entry {sequence}: version {decision.step} is decided of, and no batch made it")
        self.sequence = sequence
        self.decisions[decision.step] = decision
        self.taken_back = [step for step in self.taken_back if step != decision.step]
        if decision.decision == Decision.DECISION_ROLL_BACK:
            self.rolled_back = decision.step
            self.taken_back = sorted({*self.taken_back, *(s for s in self._promoted() if s > decision.step)})
        elif decision.decision == Decision.DECISION_PROMOTE and decision.step == self.served:
            self.rolled_back = -1

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
                case pb.RecipeRecord() as recipe:
                    self.apply_recipe(recipe, sequence)
                case pb.VersionDecision() as decided:
                    self.apply_decision(decided, sequence)
        except BadEntry as bad:
            self.quarantine.add("ledger", subject, sequence, bad)
            self.refused[subject] = self.sequence = sequence

    def last(self, subject: str, known: int = 0) -> int:
        """The sequence of a subject's last entry, as whoever appends to it must expect it: `known`, or that of an entry
        which was set aside behind it and must not be in the way for ever."""
        return max(known, self.refused.get(subject, 0))

    def _admit(self, event: pb.LedgerEvent, sequence: int) -> None:
        if self.knows(event.group):
            raise LedgerError(f"ledger entry {sequence} admits {event.group} a second time")
        group = Group(event.group, sequence, event.admitted, event.at.ToDatetime(datetime.UTC))
        self.began = self.began or group.admitted_at
        self.groups[event.group] = self.in_flight[event.group] = group
        while training_group(self.next_number) in self.groups:
            self.next_number += 1
        self.samples.admitted += event.admitted.group_size
        self.draws[event.admitted.source] = event.admitted.draw + 1

    def _scored(self, group: Group, said: pb.BatchGroup | pb.Filtered) -> None:
        if said.HasField("reward"):
            group.reward = said.reward
            rewards = self.rewards.setdefault((group.admitted.source, group.admitted.row), [])
            rewards.append(said.reward)
            del rewards[: -bounds.ROW_REWARDS]

    def _release(self, name: str, fate: Fate) -> Group:
        group = self._held(name, fate)
        group.fate, group.step = fate, self.step + 1
        del self.in_flight[name]
        return group

    def _held(self, name: str, fate: Fate) -> Group:
        """The group in flight that is to be released."""
        group = self.groups.get(name)
        if group is None:
            known = "was released long before" if self.knows(name) else "was never admitted"
            raise LedgerError(f"{name} is {fate.value} but {known}")
        if group.fate is not Fate.IN_FLIGHT:
            raise LedgerError(f"{name} is {fate.value} but was {group.fate.value} before")
        return group
