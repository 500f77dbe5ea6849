"""Checkpoints are kept by what was measured, and a metric that never comes is said."""

from typing import Any

import pytest

from penstock.recipes.sections import Checkpoints
from services.learner.checkpoints.measured import Measured, first_measured
from services.learner.interface.errors import CannotGoOn
from services.learner.testing.recipes import recipe_of


def measured(metric: str, due: int | None) -> Measured:
    return Measured(Checkpoints(keep_best=1, metric=metric), due)


def test_a_step_that_was_not_measured_is_left_out_of_the_mean() -> None:
    made = measured("rl.validation.loss", due=2)
    made.take(1, {"rl.loss": 9.0})
    made.take(2, {"rl.loss": 9.0, "rl.validation.loss": 3.0})
    for step in (3, 4, 5):
        made.take(step, {"rl.loss": 9.0})
    assert made.mean() == {"rl.validation.loss": 3.0} and made.mean() == {}


def test_a_metric_that_has_not_come_when_it_is_due_is_said() -> None:
    made = measured("rl.policy.value_loss", due=2)
    made.take(1, {"rl.loss": 9.0})
    made.take(2, {})  # a rank that reports nothing
    with pytest.raises(CannotGoOn, match="'rl.policy.value_loss' is no metric of a step; there are rl.loss"):
        made.take(2, {"rl.loss": 9.0})


def test_it_is_known_when_a_metric_is_measured_first() -> None:
    def first(metric: str, after: int, **sections: Any) -> int | None:
        made = recipe_of(**sections)
        settings = made.learner.model_copy(update={"checkpoints": Checkpoints(keep_best=1, metric=metric)})
        held_out = {"data": made.data.model_copy(update={"eval": "-"}), "environment": None}
        every = {"evaluation": made.evaluation.model_copy(update={"every": 2})}
        return first_measured(made.model_copy(update={"learner": settings, **held_out, **every}), after)

    assert first("rl.validation.loss", 0, name="sft") == 2
    assert first("rl.validation.loss", 2, name="sft") == 4
    assert first("rl.loss", 3, name="sft") == 4
    critic = {"advantage": "gae", "critic": {"warmup_steps": 3}}
    assert first("rl.policy.entropy", 0, algorithm=critic) == 4
    assert first("rl.staleness.share.2", 0) is None, "when one comes that old, if ever"
