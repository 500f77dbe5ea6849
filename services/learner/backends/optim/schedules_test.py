"""Learning-rate schedules by hand."""

from typing import Any

import pytest
from pydantic import ValidationError

from penstock.recipes.sections import Optimizer
from services.learner.backends.optim import schedules


def factors(schedule: Any, total: int, steps: int, **settings: Any) -> list[float]:
    optimizer = Optimizer(schedule=schedule, **settings)
    schedules.check_schedule(optimizer, total)
    return [schedules.factor(optimizer, total, step) for step in range(steps)]


def test_warmup_moves_from_the_first_step() -> None:
    assert factors("constant", 6, 6, warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear() -> None:
    assert factors("linear", 4, 6, final_ratio=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_cosine() -> None:
    assert factors("cosine", 5, 7, warmup_steps=1) == pytest.approx(
        [1.0, 1.0, 0.853553, 0.5, 0.146447, 0.0, 0.0], abs=1e-6
    )


def test_wsd_holds_then_falls() -> None:
    assert factors("wsd", 8, 9, warmup_steps=2, decay_steps=4) == pytest.approx(
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    )


def test_wsd_falls_over_a_fifth_of_the_run_where_nothing_else_is_said() -> None:
    assert factors("wsd", 10, 11) == pytest.approx([1.0] * 9 + [0.5, 0.0])
    assert factors("wsd", 3, 4) == pytest.approx([1.0, 1.0, 1.0, 0.0]), "at least one step falls"


@pytest.mark.parametrize("updates", [1, 2, 4, 7])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
def test_a_schedule_ends_with_the_run_however_many_updates_a_step_has(schedule: Any, updates: int) -> None:
    """With 4 mini-batches the rate was 0 from step 3 of 8 on."""
    optimizer = Optimizer(schedule=schedule, warmup_steps=2, decay_steps=3)
    one = [schedules.factor(optimizer, 8, step) for step in range(8)]
    cut = [schedules.factor(optimizer, 8, step, updates) for step in range(8 * updates)]
    assert cut[2 * updates - 1] == one[1] == 1.0, "warm"
    assert cut[2 * updates :: updates] == pytest.approx(one[2:]), "the first update of a step has the step's rate"
    assert min(cut) > 0 and schedules.factor(optimizer, 8, 8 * updates, updates) == (schedule == "constant")


@pytest.mark.parametrize(
    ("total", "settings", "message"),
    [
        (5, {"schedule": "linear", "warmup_steps": 5}, r"needs more steps than warmup_steps \(5\), and the run has 5"),
        (10, {"schedule": "wsd", "decay_steps": 11}, "decay_steps must be in 1 … 10"),
        (10, {"schedule": "wsd", "warmup_steps": 4, "decay_steps": 7}, "decay_steps must be in 1 … 6"),
    ],
)
def test_contradictions_are_refused(total: int, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(schedules.ScheduleError, match=message):
        schedules.check_schedule(Optimizer(**settings), total)


@pytest.mark.parametrize("wrong", [{"schedule": "cosin"}, {"warmup_steps": -1}, {"decay_steps": 0}])
def test_what_no_schedule_can_be_is_no_recipe(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Optimizer(**wrong)
