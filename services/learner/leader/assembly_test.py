"""Batches depend on the log and the ledger alone: not on arrival order, not on duplicates, not on when one looks."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from penstock.ledger import Ledger
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.group import CompleteGroup
from services.learner.leader.assembly import Assembly

SIZE, PER_STEP = 3, 2


def sample(group: int, index: int, *, failed: bool = False, step: int = 0) -> pb.Trajectory:
    t = pb.Trajectory(group=name(group), index=index, group_size=SIZE, kind=pb.TASK_KIND_TRAIN, reward=float(index))
    t.version_segments.add(first=0).version.step = step
    t.outcome.status = pb.Outcome.STATUS_FAILED if failed else pb.Outcome.STATUS_COMPLETED
    return t


def name(group: int) -> str:
    return f"g{group:08d}"


def admit(ledger: Ledger, count: int) -> None:
    for _ in range(count):
        event = pb.LedgerEvent(group=name(ledger.next_number), admitted=pb.Admitted(group_size=SIZE))
        ledger.apply_event(event, ledger.sequence + 1)


def judge(assembly: Assembly, ledger: Ledger, filtered: set[str]) -> None:
    for group in assembly.unjudged():
        if group.name in filtered:
            assembly.drop(group)
            ledger.apply_event(pb.LedgerEvent(group=group.name, filtered=pb.Filtered()), ledger.sequence + 1)
        else:
            assembly.keep(group)


def train(assembly: Assembly, ledger: Ledger, batch: list[CompleteGroup]) -> list[str]:
    record = pb.BatchRecord(step=ledger.step + 1, groups=[g.record() for g in batch])
    ledger.apply_batch(record, ledger.sequence + 1)
    assembly.trained(record.step)
    return [g.name for g in batch]


@given(st.randoms(use_true_random=False), st.sets(st.integers(0, 7), max_size=4))
def test_batches_depend_on_the_log_and_the_ledger_only(rng: random.Random, filtered: set[int]) -> None:
    arrivals = [(g, i) for g, i in itertools.product(range(8), range(SIZE))] * 2  # every sample arrives twice
    rng.shuffle(arrivals)
    ledger = Ledger()
    assembly = Assembly(ledger, PER_STEP, 0)
    admit(ledger, 8)
    batches = []
    for sequence, (g, i) in enumerate(arrivals, 1):
        assembly.add(sample(g, i), sequence)
        judge(assembly, ledger, {name(f) for f in filtered})
        while (batch := assembly.next_batch()) is not None:
            batches.append(train(assembly, ledger, batch))
    usable = [name(g) for g in range(8) if g not in filtered]
    whole = len(usable) // PER_STEP * PER_STEP
    assert list(itertools.chain(*batches)) == usable[:whole]


def test_an_incomplete_group_holds_back_those_behind_it() -> None:
    ledger = Ledger()
    assembly = Assembly(ledger, PER_STEP, 0)
    admit(ledger, 3)
    for g, i in itertools.product((1, 2), range(SIZE)):
        assembly.add(sample(g, i), 1)
    judge(assembly, ledger, set())
    assert assembly.next_batch() is None
    assert assembly.missing() == [name(0)]
    for i in range(SIZE):
        assembly.add(sample(0, i), 2)
    judge(assembly, ledger, set())
    batch = assembly.next_batch()
    assert batch is not None and [g.name for g in batch] == [name(0), name(1)]


def test_a_sample_of_a_released_group_is_ignored() -> None:
    ledger = Ledger()
    assembly = Assembly(ledger, 1, 0)
    admit(ledger, 2)
    for i in range(SIZE):
        assembly.add(sample(0, i), i + 1)
    judge(assembly, ledger, set())
    batch = assembly.next_batch()
    assert batch is not None
    train(assembly, ledger, batch)
    for i in range(SIZE):
        assembly.add(sample(0, i), 100 + i)
    assert assembly.unjudged() == []
    assert assembly.cursor(read=200) == 200


def test_samples_may_come_before_their_admission() -> None:
    ledger = Ledger()
    assembly = Assembly(ledger, 1, 0)
    for i in range(SIZE):
        assembly.add(sample(0, i), i + 1)
    assert assembly.unjudged() == []
    admit(ledger, 1)
    assert [g.name for g in assembly.unjudged()] == [name(0)]


def test_a_restarted_learner_gets_the_recorded_batches_again() -> None:
    ledger = Ledger()
    first = Assembly(ledger, 1, 0)
    admit(ledger, 3)
    log = [(g, i) for g in range(3) for i in range(SIZE)]
    for sequence, (g, i) in enumerate(log, 1):
        first.add(sample(g, i, failed=(g, i) == (1, 2)), sequence)
    judge(first, ledger, set())
    for _ in range(2):
        batch = first.next_batch()
        assert batch is not None
        train(first, ledger, batch)
    again = Assembly(ledger, 1, trained_step=1)  # its checkpoint is of step 1, the ledger knows step 2
    assert again.recorded(ledger.batches[2]) is None
    for sequence, (g, i) in enumerate(log, 1):
        again.add(sample(g, i, failed=(g, i) == (1, 2)), sequence)
    replayed = again.recorded(ledger.batches[2])
    assert replayed is not None and [m.trajectory.index for m in replayed[0].members] == [0, 1]
    assert again.recorded(ledger.batches[1]) is None  # trained before the checkpoint: its samples are not kept


def test_the_cursor_never_passes_a_sample_that_is_needed() -> None:
    ledger = Ledger()
    assembly = Assembly(ledger, 1, 0)
    admit(ledger, 2)
    assembly.add(sample(1, 0), 1)
    for i in range(SIZE):
        assembly.add(sample(0, i), 2 + i)
    judge(assembly, ledger, set())
    batch = assembly.next_batch()
    assert batch is not None
    train(assembly, ledger, batch)
    assert assembly.cursor(read=4) == 0  # group 1's first sample is at sequence 1


def test_age_counts_from_the_oldest_token() -> None:
    ledger = Ledger()
    assembly = Assembly(ledger, 1, 0)
    admit(ledger, 1)
    for i in range(SIZE):
        assembly.add(sample(0, i, step=4 + i), i + 1)
    assert assembly.unjudged()[0].age(version=6) == 2
