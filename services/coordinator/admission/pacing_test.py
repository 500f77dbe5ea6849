"""Pacing is a bound, whatever the learner filters and however fast anybody is."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.ledger import Ledger
from penstock.names import training_group
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.admission.pacing import Pacing, Slot


def admit(ledger: Ledger, slot: Slot) -> None:
    event = pb.LedgerEvent(group=training_group(slot.number))
    event.admitted.group_size = 1
    event.admitted.min_step = slot.min_step
    ledger.apply_event(event, ledger.sequence + 1)


def filter_out(ledger: Ledger, name: str) -> None:
    event = pb.LedgerEvent(group=name)
    event.filtered.reason = pb.FILTER_REASON_ZERO_VARIANCE
    ledger.apply_event(event, ledger.sequence + 1)


@given(staleness=st.integers(0, 4), n=st.integers(1, 5), steps=st.integers(1, 12), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_no_group_consumed_in_order_exceeds_the_bound_whatever_is_filtered(
    staleness: int, n: int, steps: int, seed: int
) -> None:
    """Plays whole runs: any interleaving of admission, generation at the oldest permitted version, and consumption.

    The learner takes groups in admission order and skips those that were filtered. A group's tokens come from min_step
    at the oldest, which is the worst that can happen.
    """
    rng, pacing, ledger = random.Random(seed), Pacing(staleness, n, steps), Ledger()
    rate = rng.random() * 0.8
    while ledger.step < steps:
        slots = pacing.admissible(ledger)
        for slot in slots[: rng.randint(0, len(slots))]:
            admit(ledger, slot)
        assert len(ledger.in_flight) <= (staleness + 1) * n
        for name in list(ledger.in_flight):
            if rng.random() < rate * 0.3:
                filter_out(ledger, name)
        ready = list(ledger.in_flight)[:n]
        if len(ready) == n and rng.random() < 0.7:
            for name in ready:
                age = ledger.step - ledger.groups[name].admitted.min_step
                assert age <= staleness
            record = pb.BatchRecord(step=ledger.step + 1)
            for name in ready:
                record.groups.add(group=name, indices=[0], log_sequences=[1])
            ledger.apply_batch(record, ledger.sequence + 1)


@given(staleness=st.integers(0, 4), n=st.integers(1, 5), steps=st.integers(1, 12))
def test_generation_never_waits_for_a_version_that_training_cannot_reach(staleness: int, n: int, steps: int) -> None:
    """No deadlock: the groups of the next batch may always be drawn from the newest version."""
    pacing, ledger = Pacing(staleness, n, steps), Ledger()
    while ledger.step < steps:
        for slot in pacing.admissible(ledger):
            admit(ledger, slot)
        ready = list(ledger.in_flight.values())[:n]
        assert len(ready) == n
        assert all(g.admitted.min_step <= ledger.step for g in ready)
        record = pb.BatchRecord(step=ledger.step + 1)
        for group in ready:
            record.groups.add(group=group.name, indices=[0], log_sequences=[1])
        ledger.apply_batch(record, ledger.sequence + 1)
    assert pacing.admissible(ledger) == [] and ledger.in_flight == {}


def test_the_docstrings_example() -> None:
    pacing, ledger = Pacing(2, 32, 100), Ledger()
    first = pacing.admissible(ledger)
    assert [p.number for p in first] == list(range(96)) and {p.min_step for p in first} == {0}
    for slot in first:
        admit(ledger, slot)
    assert pacing.admissible(ledger) == []
    record = pb.BatchRecord(step=1)
    for slot in first[:32]:
        record.groups.add(group=training_group(slot.number), indices=[0], log_sequences=[1])
    ledger.apply_batch(record, 1000)
    assert pacing.admissible(ledger) == [Slot(96 + i, 1) for i in range(32)]


def test_a_filtered_group_gives_its_slot_back_at_once() -> None:
    pacing, ledger = Pacing(0, 2, 3), Ledger()
    for slot in pacing.admissible(ledger):
        admit(ledger, slot)
    filter_out(ledger, training_group(1))
    assert pacing.admissible(ledger) == [Slot(2, 0)]
