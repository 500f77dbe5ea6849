"""Whatever order of decisions, every group is released at most once and the samples add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.ledger import Fate, Ledger, LedgerError
from penstock.trajectory.v1 import trajectory_pb2 as pb

SIZE = 4


def admit(ledger: Ledger, number: int) -> str:
    name = f"g{number:08d}"
    event = pb.LedgerEvent(group=name, admitted=pb.Admitted(group_size=SIZE))
    ledger.apply(f"penstock.r.ledger.group.{name}", event.SerializeToString(), ledger.sequence + 1)
    return name


def batch(ledger: Ledger, names: list[str], trained: int = SIZE) -> None:
    record = pb.BatchRecord(step=ledger.step + 1)
    for name in names:
        record.groups.add(group=name, indices=range(trained), log_sequences=range(trained))
    ledger.apply(f"penstock.r.ledger.batch.{record.step}", record.SerializeToString(), ledger.sequence + 1)


@given(st.lists(st.sampled_from(["admit", "train", "filter", "expire", "fail"]), max_size=60), st.integers(1, SIZE))
def test_samples_always_add_up(decisions: list[str], trained: int) -> None:
    ledger = Ledger()
    for decision in decisions:
        if decision == "admit":
            admit(ledger, ledger.next_number)
            continue
        name = next(iter(ledger.in_flight), None)
        if name is None:
            continue
        if decision == "train":
            batch(ledger, [name], trained)
            continue
        event = pb.LedgerEvent(group=name)
        if decision == "filter":
            event.filtered.reason = pb.FILTER_REASON_ZERO_VARIANCE
        elif decision == "expire":
            event.expired.age = 3
        else:
            event.failed.failures["FAILURE_TIMEOUT"] = SIZE - 1
        ledger.apply_event(event, ledger.sequence + 1)
    counts = ledger.samples
    assert counts.in_flight == SIZE * len(ledger.in_flight)
    assert counts.admitted == counts.trained + counts.filtered + counts.expired + counts.failed + counts.in_flight
    whole = [group for groups in ledger.failed.values() for group in groups]
    assert sum(ledger.failures.values()) == SIZE * len(whole)
    assert len(whole) == sum(group.fate is Fate.FAILED for group in ledger.groups.values())


def test_a_group_is_released_exactly_once() -> None:
    ledger = Ledger()
    name = admit(ledger, 0)
    batch(ledger, [name], trained=3)
    assert ledger.groups[name].fate is Fate.TRAINED
    assert (ledger.samples.trained, ledger.samples.failed) == (3, 1)
    with pytest.raises(LedgerError, match="TRAINED before"):
        ledger.apply_event(pb.LedgerEvent(group=name, filtered=pb.Filtered()), 3)


def test_contradictions_are_refused() -> None:
    ledger = Ledger()
    admit(ledger, 0)
    with pytest.raises(LedgerError, match="a second time"):
        ledger.apply_event(pb.LedgerEvent(group="g00000000", admitted=pb.Admitted(group_size=SIZE)), 3)
    with pytest.raises(LedgerError, match="never admitted"):
        ledger.apply_event(pb.LedgerEvent(group="g00000009", failed=pb.Failed()), 3)
    with pytest.raises(LedgerError, match="batch of step 2 after step 0"):
        ledger.apply_batch(pb.BatchRecord(step=2), 3)
    with pytest.raises(LedgerError, match="report of step 1, which has no batch"):
        ledger.apply_report(pb.StepReport(step=1), 3)


def test_the_ledger_knows_each_rows_rewards_and_where_each_source_goes_on() -> None:
    ledger = Ledger()
    for number, (source, draw, row) in enumerate([("a", 0, 7), ("b", 4, 7), ("a", 3, 7)]):
        admitted = pb.Admitted(group_size=SIZE, source=source, draw=draw, row=row)
        ledger.apply_event(pb.LedgerEvent(group=f"g{number:08d}", admitted=admitted), number + 1)
    assert ledger.draws == {"a": 4, "b": 5}
    record = pb.BatchRecord(step=1)
    record.groups.add(group="g00000000", indices=[0], reward=0.25)
    record.groups.add(group="g00000001", indices=[0])
    ledger.apply_batch(record, 4)
    filtered = pb.Filtered(reason=pb.FILTER_REASON_ZERO_VARIANCE, reward=1.0)
    ledger.apply_event(pb.LedgerEvent(group="g00000002", filtered=filtered), 5)
    assert ledger.rewards == {("a", 7): [0.25, 1.0]}, "a group without rewards says nothing"
    assert [ledger.groups[f"g{i:08d}"].reward for i in range(3)] == [0.25, None, 1.0]
