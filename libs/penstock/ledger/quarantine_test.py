"""Whatever is written into the ledger, every fold of it holds what it promises, and nobody is stopped by it."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.ledger import Ledger
from penstock.ledger.decisions_testing import ENTRIES, NAMES, Entry, admit, batch, check, event, fold
from penstock.ledger.entries import read_decision
from penstock.rules.quarantine import BadEntry
from penstock.trajectory.v1 import trajectory_pb2 as pb


def test_every_order_of_every_decisions_of_two_writers_adds_up() -> None:
    """All sequences of four of them: those of two coordinators, two learners and somebody who writes garbage."""
    for entries in itertools.product(ENTRIES, repeat=4):
        check(fold(list(entries)))


def accepted(entries: list[Entry]) -> list[Entry]:
    """Those of the entries that changed something or were said a second time: the others are set aside."""
    ledger = Ledger()
    return [e for i, e in enumerate(entries, 1) if not _set_aside(ledger, e, i)]


def _set_aside(ledger: Ledger, entry: Entry, sequence: int) -> bool:
    before = len(ledger.quarantine.listed)
    ledger.apply(*entry, sequence)
    return len(ledger.quarantine.listed) > before


@settings(deadline=None)  # it logs
@given(st.lists(st.sampled_from(ENTRIES), max_size=8))
def test_an_entry_that_is_quarantined_is_counted_and_changes_nothing_else(entries: list[Entry]) -> None:
    ledger, kept = fold(entries), fold(accepted(entries))
    assert (ledger.samples, ledger.step, list(ledger.in_flight)) == (kept.samples, kept.step, list(kept.in_flight))
    assert (list(ledger.groups), ledger.batches, ledger.reports) == (list(kept.groups), kept.batches, kept.reports)
    assert not kept.quarantine.counts


def test_a_quarantined_entry_is_not_in_the_way_of_whoever_appends_behind_it() -> None:
    garbage = NAMES.ledger_batch_subject(1), b"\xff\xff"
    ledger = fold([admit(0), garbage])
    assert ledger.last(garbage[0]) == 2 and ledger.last(NAMES.ledger_batch_subject(2)) == 0
    ledger.apply(*batch(1, 0), 3)
    assert ledger.step == 1
    (set_aside,) = ledger.quarantine.listed
    assert (set_aside.stream, set_aside.sequence) == ("ledger", 2) and "not a decision" in set_aside.reason


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (pb.RecipeRecord(number=1, recipe_json="{}"), "recipe 1 behind 0"),
        (pb.RecipeRecord(recipe_json="[]"), "is no object"),
        (pb.RecipeRecord(recipe_json="{"), "recipe_json: "),
        (pb.RecipeRecord(recipe_json="[" * 100_000), "recipe_json: "),
        (pb.RecipeRecord(recipe_json=""), "recipe_json"),
        (pb.RecipeRecord(recipe_json="{}", step=2**63), "no run has so many"),
    ],
)
def test_a_recipe_that_is_none_is_quarantined(record: pb.RecipeRecord, reason: str) -> None:
    ledger = Ledger()
    ledger.apply(NAMES.ledger_recipe_subject(record.number), record.SerializeToString(), 1)
    assert not ledger.recipes and reason in ledger.quarantine.listed[0].reason
    ledger.apply(NAMES.ledger_recipe_subject(0), pb.RecipeRecord(recipe_json="{}").SerializeToString(), 2)
    assert len(ledger.recipes) == 1


def test_an_admission_ahead_of_its_turn_is_stepped_over() -> None:
    ledger = fold([admit(2), admit(0)])
    assert ledger.next_number == 1
    ledger.apply(*admit(1), 3)
    assert ledger.next_number == 3


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (NAMES.ledger_group_subject("g00000000"), pb.LedgerEvent(group="g00000001", failed=pb.Failed())),
        (NAMES.ledger_group_subject("g00000000"), pb.LedgerEvent(group="g00000000")),
        (NAMES.ledger_group_subject("odd"), pb.LedgerEvent(group="odd", failed=pb.Failed())),
        (NAMES.ledger_batch_subject(1), pb.BatchRecord(step=2)),
        (NAMES.ledger_batch_subject(1), pb.BatchRecord(step=1)),
        (NAMES.ledger_batch_subject(2**63), pb.BatchRecord(step=2**63)),
        (NAMES.ledger_step_subject(2**63), pb.StepReport(step=2**63)),
        (NAMES.ledger_eval_subject(2**63), pb.EvaluationReport(step=2**63, samples=1)),
        (NAMES.ledger_eval_subject(0), pb.EvaluationReport(step=0)),
        ("penstock.r.ledger.odd.1", pb.StepReport(step=1)),
    ],
)
def test_whatever_is_wrong_with_an_entry_is_a_bad_entry(
    subject: str, message: pb.LedgerEvent | pb.BatchRecord | pb.StepReport | pb.EvaluationReport
) -> None:
    with pytest.raises(BadEntry):
        read_decision(subject, message.SerializeToString())


@pytest.mark.parametrize("reward", [1e308, float("nan"), float("inf")])
def test_a_reward_that_cannot_be_averaged_is_not_taken_from_the_ledger(reward: float) -> None:
    record = pb.BatchRecord(step=1, groups=[pb.BatchGroup(group="g00000000", indices=[0], log_sequences=[1])])
    record.groups[0].reward = reward
    with pytest.raises(BadEntry, match="reward"):
        read_decision(NAMES.ledger_batch_subject(1), record.SerializeToString())
    with pytest.raises(BadEntry, match="reward"):
        read_decision(*event(pb.LedgerEvent(group="g00000000", filtered=pb.Filtered(reward=reward))))


@pytest.mark.parametrize("number", [2**63, 2**64 - 1])
def test_nobody_fences_for_ever_with_a_number(number: int) -> None:
    record = pb.BatchRecord(step=1, writer_epoch=number)
    record.groups.add(group="g00000000", indices=[0], log_sequences=[1])
    with pytest.raises(BadEntry):
        read_decision(NAMES.ledger_batch_subject(1), record.SerializeToString())
    made = pb.LedgerEvent(group="g00000000", writer_epoch=number, failed=pb.Failed())
    with pytest.raises(BadEntry):
        read_decision(NAMES.ledger_group_subject("g00000000"), made.SerializeToString())


@settings(deadline=None)  # it logs
@given(st.sampled_from(ENTRIES), st.randoms(use_true_random=False), st.integers(1, 5))
def test_mutated_entries_stop_nobody(entry: Entry, rng: random.Random, changes: int) -> None:
    raw = bytearray(entry[1])
    for _ in range(changes):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    check(fold([admit(0), (entry[0], bytes(raw)), *ENTRIES]))
