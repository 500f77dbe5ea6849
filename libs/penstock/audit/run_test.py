"""Every promise that a run's streams can break is a finding when it is broken, and none is when it is kept."""

from collections.abc import Callable

import pytest

from penstock.audit.run import Audit, Verdict
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.names import RunNames
from penstock.telemetry import steps
from penstock.trajectories import TrajectoryBuilder, encode, failed
from penstock.trajectories.building import header
from penstock.trajectory.v1 import trajectory_pb2 as pb

NAMES, SIZE, BOUND = RunNames("r"), 2, 1
Entry = tuple[str, bytes]


def task(number: int) -> pb.GroupTask:
    return pb.GroupTask(run="r", group=f"g{number:08d}", kind=pb.TASK_KIND_TRAIN, group_size=SIZE)


def sample(number: int, index: int, *versions: int) -> pb.Trajectory:
    b = TrajectoryBuilder()
    b.context("user", [3])
    b.begin_completion()
    for version in versions or (0,):
        b.drawn([5], [-0.5], [pb.VersionSegment(version=PolicyVersion(epoch=1, step=version))])
    t = b.fill(header(task(number), index, "m"))
    t.outcome.status, t.reward = pb.Outcome.STATUS_COMPLETED, float(index)
    return t


class Streams:
    """Three steps of a group each, one filtered, one failed, one in flight; a test changes what it wants broken."""

    def __init__(self) -> None:
        self.log = [sample(n, i, min(3, max(0, n - 1))) for n in range(6) for i in range(SIZE)]
        self.log[9] = failed(task(4), 1, "m", pb.Outcome.FAILURE_REWARD, "no score")
        self.events = [
            pb.LedgerEvent(group="g00000003", filtered=pb.Filtered(reason=pb.FILTER_REASON_ZERO_VARIANCE)),
            pb.LedgerEvent(group="g00000004", failed=pb.Failed(failures={"FAILURE_REWARD": 1})),
        ]
        self.records = [self.record(step) for step in (1, 2, 3)]
        self.reports = [self.report(step) for step in (1, 2, 3)]

    def record(self, step: int) -> pb.BatchRecord:
        made = pb.BatchRecord(step=step, writer_epoch=1)
        first = 2 * (step - 1) + 1
        made.groups.add(group=f"g{step - 1:08d}", indices=[0, 1], log_sequences=[first, first + 1], reward=0.5)
        return made

    def report(self, step: int) -> pb.StepReport:
        metrics = {steps.SAMPLES_TRAINED: 2.0, steps.SAMPLES_MASKED: 0.0, steps.REWARD_MEAN: 0.5}
        return pb.StepReport(step=step, version=PolicyVersion(epoch=1, step=step), metrics=metrics)

    def verdict(self, first: int = 1) -> Verdict:
        audit, entries = Audit(NAMES, BOUND), list[Entry]()
        for number in range(6):
            event = pb.LedgerEvent(group=f"g{number:08d}", admitted=pb.Admitted(group_size=SIZE))
            entries.append((NAMES.ledger_group_subject(event.group), event.SerializeToString()))
        entries += [(NAMES.ledger_group_subject(e.group), e.SerializeToString()) for e in self.events]
        entries += [(NAMES.ledger_batch_subject(r.step), r.SerializeToString()) for r in self.records]
        entries += [(NAMES.ledger_step_subject(r.step), r.SerializeToString()) for r in self.reports]
        for sequence, (subject, payload) in enumerate(entries, 1):
            audit.decision(subject, payload, sequence)
        for sequence, t in enumerate(self.log, 1):
            if sequence >= first:
                audit.sample(NAMES.log_subject(t.group, t.index), encode(t), sequence)
        self.quarantined = audit.others.counts.total() + audit.ledger.quarantine.counts.total()
        return audit.verdict(first)


def test_a_run_that_kept_its_promises_has_no_findings() -> None:
    streams = Streams()
    assert streams.verdict() == Verdict([], 0) and streams.quarantined == 0


def test_what_was_trimmed_is_counted_and_no_finding() -> None:
    assert Streams().verdict(first=4) == Verdict([], 3)


def missing(s: Streams) -> None:
    s.log = s.log[:3]


def not_usable(s: Streams) -> None:
    s.log[1] = failed(task(0), 1, "m", pb.Outcome.FAILURE_TIMEOUT, "late")


def elsewhere(s: Streams) -> None:
    s.records[0].groups[0].log_sequences[1] = 9


def overaged(s: Streams) -> None:
    s.log[4] = sample(2, 0, 0)


def backwards(s: Streams) -> None:
    s.log[4] = sample(2, 0, 2, 1)


def unreported(s: Streams) -> None:
    del s.reports[1]


def miscounted(s: Streams) -> None:
    s.reports[1].metrics[steps.SAMPLES_TRAINED] = 1.0


def flattered(s: Streams) -> None:
    s.reports[2].metrics[steps.REWARD_MEAN] = 0.9


def renamed(s: Streams) -> None:
    s.reports[2].version.step = 2


def overtaken(s: Streams) -> None:
    s.records[0].writer_epoch = 2


def test_an_agents_turn_that_was_drawn_for_another_context_later_breaks_nothing() -> None:
    """A context that began another was taken into it: its turn is of a newer version than those behind it."""
    streams = Streams()
    t = sample(2, 0, 1, 1)
    turn = t.turns[-1]
    assert turn.end - turn.start == 2
    t.turns.add(role="assistant", start=turn.start + 1, end=turn.end)
    turn.end = turn.start + 1
    del t.version_segments[:]
    for first, step in ((turn.start, 2), (turn.start + 1, 1)):
        t.version_segments.add(first=first).version.step = step
    streams.log[4] = t
    assert not [each for each in streams.verdict().findings if "go back" in each]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (missing, "g00000001/1 was trained, but the log holds no such sample"),
        (not_usable, "g00000000/1 was trained, but has failed"),
        (elsewhere, "g00000000/1 is at 2 of the log, not at 9"),
        (overaged, "g00000002/0 was 2 versions old; the bound is 1"),
        (backwards, "g00000002/0: its versions go back"),
        (unreported, "1 steps have no report, the first is step 2"),
        (miscounted, "its report is of 1 samples, its batch of 2"),
        (flattered, "its report says reward 0.9, its batch 0.5"),
        (renamed, "the report of step 3 is of version 2"),
        (overtaken, "an earlier learner recorded a batch after a later one"),
    ],
)
def test_a_broken_promise_is_a_finding(break_it: Callable[[Streams], None], words: str) -> None:
    streams = Streams()
    break_it(streams)
    findings = streams.verdict().findings
    assert any(words in finding for finding in findings), findings


def test_what_every_reader_sets_aside_breaks_no_promise() -> None:
    """A group trained a second time, an admission of what was released: quarantined, and never trained."""
    streams = Streams()
    again = pb.BatchRecord(step=4, writer_epoch=1)
    again.groups.add(group="g00000000", indices=[0], log_sequences=[1], reward=0.0)
    streams.records.append(again)
    streams.events.append(pb.LedgerEvent(group="g00000003", failed=pb.Failed()))
    assert streams.verdict().findings == [] and streams.quarantined == 2


def test_the_ledger_that_the_sums_are_checked_against_is_not_their_only_source() -> None:
    streams = Streams()
    audit = Audit(NAMES, BOUND)
    assert audit.verdict() == Verdict([], 0), "an empty run keeps its promises"
    audit.ledger.samples.trained = 1
    assert any("do not add up" in finding for finding in audit.verdict().findings)
    assert streams.verdict().findings == []
