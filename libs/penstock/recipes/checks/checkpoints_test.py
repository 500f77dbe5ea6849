"""The metric that checkpoints are kept by is one that comes."""

from typing import Any

import pytest

from penstock.recipes import resolve
from penstock.recipes.refusals_testing import problems


def best(metric: str) -> str:
    return f"learner.checkpoints={{keep_best: 1, metric: {metric}}}"


@pytest.fixture
def supervised(raw: dict[str, Any]) -> dict[str, Any]:
    del raw["environment"]
    raw["algorithm"]["name"] = "sft"
    raw["data"]["eval"] = raw["data"]["train"]
    return raw


def test_a_metric_that_never_comes_is_refused(raw: dict[str, Any]) -> None:
    assert "'rl.rewards.mean' is no metric of a step; did you mean 'rl.reward.mean'" in problems(
        raw, best("rl.rewards.mean")
    )
    assert "'rl.validation.loss' is of held-out rows" in problems(raw, best("rl.validation.loss"))


def test_what_is_measured_now_and_then_may_choose_the_best(supervised: dict[str, Any]) -> None:
    assert resolve(supervised, [best("rl.validation.loss"), "evaluation.every=2"])
    assert "at the end alone; set evaluation.every" in problems(supervised, best("rl.validation.loss"))
    assert "is of rewards, and demonstrations have none" in problems(supervised, "learner.checkpoints.keep_best=1")
    text = problems(supervised, best("rl.validation.accuracy"), "evaluation.every=2")
    assert "is not measured by algorithm.name sft; there are rl.validation.loss" in text
