"""Sources in proportion, rows in order, and a curriculum that passes over what it should."""

import pathlib
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from penstock.datasets import Dataset
from penstock.ledger import Ledger
from penstock.recipes.sections import Curriculum, Data
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.admission.draws import Draw, Drawing, Rows, Shares, keeps
from services.coordinator.admission.pacing import Slot


def rows(folder: pathlib.Path, name: str, n: int, weight: float = 1.0, **curriculum: Any) -> Rows:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(f'{{"prompt": "p{i}"}}\n' for i in range(n)))
    return Rows(Dataset(path, Data(train=str(path)), shuffle=True), Curriculum(**curriculum), weight)


def run(drawing: Drawing, ledger: Ledger, groups: int, reward: float = 0.5, at_once: int = 3) -> list[Draw]:
    """Admits and trains `groups` more groups, some at once, each with the same mean reward."""
    drawn: list[Draw] = []
    while len(drawn) < groups:
        first = ledger.next_number
        slots = [Slot(first + i, 0) for i in range(min(at_once, groups - len(drawn)))]
        draws = drawing.draws(slots, ledger)
        record = pb.BatchRecord(step=ledger.step + 1)
        for slot, draw in zip(slots, draws, strict=True):
            admitted = pb.Admitted(group_size=1, row=draw.row, source=draw.source, draw=draw.at)
            setattr(admitted, "pass", draw.turn)
            ledger.apply_event(pb.LedgerEvent(group=f"g{slot.number:08d}", admitted=admitted), slot.number)
            assert Draw.recorded(admitted) == draw
            record.groups.add(group=f"g{slot.number:08d}", indices=[0], reward=reward)
        ledger.apply_batch(record, 0)
        drawn += draws
    return drawn


@hypothesis.given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(1, 400))
@hypothesis.settings(max_examples=60, deadline=None)
def test_the_first_groups_hold_each_sources_share_give_or_take_one(weights: list[float], n: int) -> None:
    shares = Shares(weights)
    dealt = [shares.of(i) for i in range(n)]
    for first in range(1, n + 1):
        for source, weight in enumerate(weights):
            assert abs(dealt[:first].count(source) - first * weight / sum(weights)) < 1.0
    assert [Shares(weights).of(i) for i in (n - 1, 0)] == [dealt[n - 1], dealt[0]], "a function of the number"


def test_without_a_curriculum_every_pass_visits_every_row_once(tmp_path: pathlib.Path) -> None:
    drawing = Drawing({"a": rows(tmp_path, "a", 10, 2.0), "b": rows(tmp_path, "b", 5)})
    drawn = run(drawing, Ledger(), 30)
    for source, n, turns in (("a", 10, 2), ("b", 5, 2)):
        own = [d for d in drawn if d.source == source]
        assert [d.at for d in own] == list(range(turns * n))
        for turn in range(turns):
            assert sorted(d.row for d in own if d.turn == turn) == list(range(n))


def test_a_solved_row_is_passed_over_and_no_source_runs_dry(tmp_path: pathlib.Path) -> None:
    drawing, ledger = Drawing({"a": rows(tmp_path, "a", 6, retire_after=2, retire_at=0.9)}), Ledger()
    run(drawing, ledger, 6, reward=1.0)
    run(drawing, ledger, 5, reward=1.0)  # all rows but one are solved twice
    retired = {row for (_, row), rewards in ledger.rewards.items() if len(rewards) == 2}
    left = run(drawing, ledger, 2, reward=0.4, at_once=1)
    assert {d.row for d in left} == set(range(6)) - retired, "what is not solved comes in every pass"
    drawing, ledger = Drawing({"a": rows(tmp_path, "a", 3, retire_after=1, retire_at=0.9)}), Ledger()
    assert len(run(drawing, ledger, 9, reward=1.0)) == 9, "when all are solved they are drawn as before"


def test_a_restarted_coordinator_goes_on_behind_what_is_admitted(tmp_path: pathlib.Path) -> None:
    sources = {"a": rows(tmp_path, "a", 7, focus=1.0), "b": rows(tmp_path, "b", 4)}
    once, ledger = Drawing(sources), Ledger()
    run(once, ledger, 10)
    slots = [Slot(10 + i, 0) for i in range(5)]
    assert Drawing(sources).draws(slots, ledger) == once.draws(slots, ledger)


def test_many_small_sources_beside_large_ones_do_not_drift() -> None:
    """Weights for which taking the source furthest behind is off by 1.2 after 198 groups."""
    weights = [0.009, 0.009, 0.009, 0.009, 0.0003, 0.009, 0.728, 0.003, 0.223]
    shares = Shares(weights)
    dealt = [shares.of(i) for i in range(400)]
    for n in range(1, 401):
        assert all(abs(dealt[:n].count(i) - n * w / sum(weights)) < 1.0 for i, w in enumerate(weights))


@pytest.mark.parametrize(("rewards", "share"), [((), 1.0), ((0.0,), 0.2), ((1.0,), 0.2), ((0.0, 0.5), 1.0)])
def test_focus_draws_rows_by_the_variance_of_their_rewards(rewards: tuple[float, ...], share: float) -> None:
    curriculum = Curriculum(focus=1.0, least=0.2)
    kept = sum(keeps(curriculum, rewards, f"0/0/{row}") for row in range(2000)) / 2000
    assert kept == pytest.approx(share, abs=0.03)
