"""When a run waits for nothing but a person."""

import pathlib

import pytest

from penstock.ledger import Ledger
from penstock.recipes import Recipe
from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1.weights_pb2 import Decision
from services.coordinator.state.standstill import standstill
from services.coordinator.testing.run import STALENESS, N, make_recipe

PROMOTE, REJECT, ROLL_BACK = Decision.DECISION_PROMOTE, Decision.DECISION_REJECT, Decision.DECISION_ROLL_BACK
BEHIND = STALENESS + 1
"""So many versions behind the newest nothing may be drawn any more."""


@pytest.fixture
def recipe(tmp_path: pathlib.Path) -> Recipe:
    make_recipe(tmp_path)
    return make_recipe(tmp_path, data__eval=str(tmp_path / "eval.jsonl"), weight_sync__canary={"on_reject": "continue"})


def ledger_of(step: int, *decisions: tuple[int, Decision], in_flight: int = 0) -> Ledger:
    ledger = Ledger()
    ledger.step = step
    for number in range(in_flight):
        event = pb.LedgerEvent(group=f"g{number:08d}", admitted=pb.Admitted(group_size=2))
        event.at.GetCurrentTime()
        ledger.apply_event(event, number + 1)
    ledger.next_number = 9
    for sequence, (version, decision) in enumerate(decisions, 100):
        ledger.apply_decision(pb.VersionDecision(step=version, decision=decision), sequence)
    return ledger


def test_all_that_could_be_drawn_with_were_rejected(recipe: Recipe) -> None:
    rejected = [(step, REJECT) for step in range(1, BEHIND + 1)]
    said = standstill(ledger_of(BEHIND, *rejected), recipe)
    assert said.startswith("version 0 is served, all that are newer were rejected") and "`penstock promote`" in said
    assert standstill(ledger_of(BEHIND, *rejected[:-1]), recipe, rejected=BEHIND) == said
    assert standstill(ledger_of(BEHIND, *rejected, in_flight=N), recipe) == said, "nothing can be drawn behind it"


def test_a_run_that_may_go_on_is_left_alone(recipe: Recipe) -> None:
    rejected = [(step, REJECT) for step in range(1, BEHIND + 1)]
    assert not standstill(Ledger(), recipe)
    assert not standstill(ledger_of(BEHIND, *rejected[:-1]), recipe), "the newest is tried"
    assert not standstill(ledger_of(STALENESS, *rejected[:-1]), recipe), "staleness allows it"
    assert not standstill(ledger_of(recipe.steps, *((s, REJECT) for s in range(1, recipe.steps + 1))), recipe), "over"


def test_behind_a_rollback_it_waits_once_it_is_at_its_bound(recipe: Recipe) -> None:
    back = [(1, PROMOTE), (2, PROMOTE), (1, ROLL_BACK)]
    assert not standstill(ledger_of(1 + STALENESS, *back), recipe)
    said = standstill(ledger_of(1 + BEHIND, *back), recipe)
    assert said.startswith("version 1 is served since a rollback, and the next batch must be drawn by version 2")
    assert said.endswith("`penstock promote` one")
    assert standstill(ledger_of(1 + BEHIND, *back, in_flight=N), recipe) == said, "they wait for a verdict"
    assert not standstill(ledger_of(1 + BEHIND, *back, (2, PROMOTE)), recipe)


def test_without_trials_only_a_newer_version_helps(tmp_path: pathlib.Path) -> None:
    said = standstill(ledger_of(1 + BEHIND, (1, ROLL_BACK)), make_recipe(tmp_path))
    assert said.endswith("`penstock promote` a newer one")


def test_what_a_rollback_took_back_is_promoted_by_nobody_but_a_person(recipe: Recipe) -> None:
    newest = 3 + STALENESS
    back = [*((step, PROMOTE) for step in (1, 2, 3)), (1, ROLL_BACK), (1, PROMOTE)]
    rejected = [(step, REJECT) for step in range(4, newest + 1)]
    said = standstill(ledger_of(newest, *back, *rejected), recipe)
    assert said.startswith("version 1 is served, all that are newer were rejected or taken back by a rollback, and the")
    assert not standstill(ledger_of(newest, *back, *rejected[:-1]), recipe), "the newest is tried"
    assert not standstill(ledger_of(newest, *back, *rejected, (3, PROMOTE)), recipe)
