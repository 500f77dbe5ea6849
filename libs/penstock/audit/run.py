"""A run's promises against its streams. Pure: entries in, findings out.

    ledger: every decision -> Ledger           log: every sample -> its place, its versions, whether it is usable

Every group that was admitted is trained, filtered, expired, failed or in flight, and their samples add up; no sample is
trained twice, and none that the log does not hold; batches and reports follow each other without a gap and agree;
versions never go back within a turn, and no group is older than the bound when it is trained. What the log no longer
holds, because it was trimmed behind a checkpoint, cannot be looked at and is counted.

Entries that are no entries of this run are quarantined by every reader, and here as well: they are listed and break
nothing.
"""

import dataclasses
from collections.abc import Iterator

from penstock.ledger import Fate, Ledger, check_against_admission, explained
from penstock.names import RunNames
from penstock.rules.quarantine import BadEntry, Quarantine
from penstock.telemetry import steps
from penstock.trajectories import Drawn, contexts, oldest_step, read_sample, read_task
from penstock.trajectory.v1 import trajectory_pb2 as pb

CLOSE = 1e-6  # of means of the same numbers in another order, relative to 1 + their size


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A sample of the log. `oldest`: step of its oldest version, None for one that no version made."""

    sequence: int
    usable: bool
    oldest: int | None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """findings: the promises that are broken, one sentence each. unseen: trained samples that the log holds no more."""

    findings: list[str]
    unseen: int


class Audit:
    """One run. Give it all of the ledger first, then tasks and log; then ask for the verdict.

    max_versions: the recipe's bound on staleness. copied: whether the log is a replay's, whose samples have other
    places than their batches say. others: what of tasks and log was set aside.
    """

    def __init__(self, names: RunNames, max_versions: int, *, copied: bool = False) -> None:
        self.ledger, self.others = Ledger(), Quarantine()
        self._names, self._max_versions, self._copied = names, max_versions, copied
        self._log: dict[tuple[str, int], _Seen] = {}
        self._back: list[str] = []

    def decision(self, subject: str, payload: bytes, sequence: int) -> None:
        """Takes the next entry of the ledger."""
        self.ledger.apply(subject, payload, sequence)

    def task(self, subject: str, payload: bytes, sequence: int) -> None:
        """Takes an entry of the tasks."""
        try:
            read_task(self._names, subject, payload)
        except BadEntry as bad:
            self.others.add("task", subject, sequence, bad)

    def sample(self, subject: str, payload: bytes | BadEntry, sequence: int, *, recent: bool = False) -> None:
        """Takes an entry of the log: its payload, or why there is none. recent: it was written after the ledger was
        read, so the ledger need not explain it."""
        try:
            if isinstance(payload, BadEntry):
                raise payload
            t = read_sample(self._names, subject, payload)
            if t.kind == pb.TASK_KIND_EVAL:
                return
            if recent and not explained(t, self.ledger):
                return
            check_against_admission(t, self.ledger)
        except BadEntry as bad:
            self.others.add("log", subject, sequence, bad)
            return
        for versions in (found for context in contexts(t) for found in _by_turn(context)):
            if versions != sorted(versions):
                self._back.append(f"{t.group}/{t.index}: its versions go back: {versions[:8]}")
        self._log[t.group, t.index] = _Seen(sequence, t.outcome.status != pb.Outcome.STATUS_FAILED, oldest_step(t))

    def verdict(self, first_sample: int = 1) -> Verdict:
        """What is broken. first_sample: the sequence at which the log begins now; what was before is trimmed."""
        findings = [*self._back, *self._sums(), *self._order()]
        unseen = 0
        trained = set[tuple[str, int]]()
        for record in self.ledger.batches.values():
            for part in record.groups:
                for index, sequence in zip(part.indices, part.log_sequences, strict=True):
                    if (part.group, index) in trained:
                        findings.append(f"step {record.step}: {part.group}/{index} was trained before")
                    trained.add((part.group, index))
                    if not self._copied and sequence < first_sample:
                        unseen += 1
                    else:
                        findings += self._wrong_sample(record.step, part.group, index, sequence)
            findings += self._wrong_report(record)
        return Verdict(findings, unseen)

    def _sums(self) -> Iterator[str]:
        groups, counts = self.ledger.groups.values(), self.ledger.samples
        trained = {part.group: len(part.indices) for r in self.ledger.batches.values() for part in r.groups}
        sizes = dict.fromkeys(Fate, 0)
        for group in groups:
            sizes[group.fate] += group.admitted.group_size
            if (group.fate is Fate.TRAINED) != (group.name in trained):
                yield f"{group.name} is {group.fate.value}, and {'a' if group.name in trained else 'no'} batch names it"
        left_out = sizes[Fate.TRAINED] - sum(trained.values())
        found = (sum(trained.values()), sizes[Fate.FILTERED], sizes[Fate.EXPIRED], sizes[Fate.FAILED] + left_out)
        if found != (counts.trained, counts.filtered, counts.expired, counts.failed):
            yield f"samples do not add up: {found} by groups, {counts} by entries"
        if counts.admitted != sum(found) + sizes[Fate.IN_FLIGHT]:
            yield f"{counts.admitted} samples were admitted, but {sum(found)} released and {sizes[Fate.IN_FLIGHT]} left"

    def _order(self) -> Iterator[str]:
        if list(self.ledger.batches) != list(range(1, self.ledger.step + 1)):
            yield f"batches are not those of steps 1 to {self.ledger.step}"
        epochs = [record.writer_epoch for record in self.ledger.batches.values()]
        if epochs != sorted(epochs):
            yield "an earlier learner recorded a batch after a later one"
        reports = sorted(self.ledger.reports)
        missing = sorted(set(range(1, reports[-1] + 1 if reports else 1)) - set(reports))
        if missing and not self._copied:
            yield f"{len(missing)} steps have no report, the first is step {missing[0]}"
        for step in reports:
            version = self.ledger.reports[step].version
            if version.step and version.step != step:
                yield f"the report of step {step} is of version {version.step}"

    def _wrong_sample(self, step: int, group: str, index: int, sequence: int) -> Iterator[str]:
        seen = self._log.get((group, index))
        if seen is None:
            yield f"step {step}: {group}/{index} was trained, but the log holds no such sample"
            return
        if not seen.usable:
            yield f"step {step}: {group}/{index} was trained, but has failed"
        if seen.sequence != sequence and not self._copied:
            yield f"step {step}: {group}/{index} is at {seen.sequence} of the log, not at {sequence}"
        if seen.oldest is not None and step - 1 - seen.oldest > self._max_versions:
            age = step - 1 - seen.oldest
            yield f"step {step}: {group}/{index} was {age} versions old; the bound is {self._max_versions}"

    def _wrong_report(self, record: pb.BatchRecord) -> Iterator[str]:
        report = self.ledger.reports.get(record.step)
        if report is None:
            return
        said, members = report.metrics, sum(len(part.indices) for part in record.groups)
        if steps.SAMPLES_TRAINED in said:
            counted = said[steps.SAMPLES_TRAINED] + said.get(steps.SAMPLES_MASKED, 0.0)
            if counted != members:
                yield f"step {record.step}: its report is of {counted:g} samples, its batch of {members}"
        if steps.REWARD_MEAN in said and all(part.HasField("reward") for part in record.groups):
            mean = sum(part.reward * len(part.indices) for part in record.groups) / members
            if abs(mean - said[steps.REWARD_MEAN]) > CLOSE * (1 + abs(mean)):
                yield f"step {record.step}: its report says reward {said[steps.REWARD_MEAN]:g}, its batch {mean:g}"


def _by_turn(context: Drawn) -> Iterator[list[int]]:
    """The versions that drew each turn, in order. An agent's context may hold a turn that was drawn for another one,
    later than the turns behind it."""
    firsts = [segment.first for segment in context.version_segments]
    ends = [*firsts[1:], context.token_count]
    steps_of = [segment.version.step for segment in context.version_segments]
    for turn in context.turns:
        yield [s for first, end, s in zip(firsts, ends, steps_of, strict=True) if first < turn.end and end > turn.start]
