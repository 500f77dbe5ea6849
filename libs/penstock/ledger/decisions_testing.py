"""Decisions of a run as a ledger's tests write them, and what must hold of whoever folded them."""

from penstock.ledger import Fate, Ledger
from penstock.names import RunNames
from penstock.trajectory.v1 import trajectory_pb2 as pb

NAMES = RunNames("r")
SIZE = 2
Entry = tuple[str, bytes]


def event(made: pb.LedgerEvent) -> Entry:
    return NAMES.ledger_group_subject(made.group), made.SerializeToString()


def admit(number: int) -> Entry:
    return event(pb.LedgerEvent(group=f"g{number:08d}", admitted=pb.Admitted(group_size=SIZE)))


def filtered(number: int) -> Entry:
    return event(pb.LedgerEvent(group=f"g{number:08d}", filtered=pb.Filtered(reason=pb.FILTER_REASON_ZERO_VARIANCE)))


def failed(number: int) -> Entry:
    return event(pb.LedgerEvent(group=f"g{number:08d}", failed=pb.Failed(failures={"FAILURE_TIMEOUT": SIZE})))


def batch(step: int, *numbers: int) -> Entry:
    record = pb.BatchRecord(step=step)
    for number in numbers:
        record.groups.add(group=f"g{number:08d}", indices=[0], log_sequences=[number + 1])
    return NAMES.ledger_batch_subject(step), record.SerializeToString()


def report(step: int) -> Entry:
    return NAMES.ledger_step_subject(step), pb.StepReport(step=step).SerializeToString()


ENTRIES = [
    *(admit(0), admit(1), filtered(0), failed(1), batch(1, 0), batch(1, 0, 1), batch(2, 1), report(1)),
    (NAMES.ledger_batch_subject(1), b"garbage"),
]


def fold(entries: list[Entry]) -> Ledger:
    ledger = Ledger()
    for sequence, (subject, payload) in enumerate(entries, 1):
        ledger.apply(subject, payload, sequence)
        assert ledger.sequence == sequence
    return ledger


def check(ledger: Ledger) -> None:
    counts = ledger.samples
    parts = (counts.trained, counts.filtered, counts.expired, counts.failed, counts.in_flight)
    assert counts.admitted == sum(parts) == sum(g.admitted.group_size for g in ledger.groups.values())
    assert min(parts) >= 0
    assert list(ledger.batches) == list(range(1, ledger.step + 1))
    named = [part.group for record in ledger.batches.values() for part in record.groups]
    assert len(set(named)) == len(named), "every group is in at most one batch"
    assert {n for n, g in ledger.groups.items() if g.fate is Fate.TRAINED} == set(named)
    assert all(step in ledger.batches for step in ledger.reports)
