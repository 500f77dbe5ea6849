"""The order of shaping, filters, estimator and clip."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from penstock.objectives import UnknownChoice
from services.learner.algorithms.policy_gradient.samples import AdvantageSamples
from services.learner.algorithms.rewards import Shaping
from services.learner.testing.recipes import recipe_of

WHOLE = torch.tensor([False, False])


def maker(**algorithm: Any) -> AdvantageSamples:
    return AdvantageSamples(recipe_of(algorithm=algorithm))


def advantages(rewards: list[float], lengths: list[int], truncated: Tensor = WHOLE, **algorithm: Any) -> list[float]:
    """Of one group's answers."""
    recipe = recipe_of(algorithm=algorithm)
    worth = Shaping(recipe).shaped(torch.tensor(rewards), torch.tensor(lengths), truncated)
    found: list[float] = AdvantageSamples(recipe).advantages(worth, torch.zeros(2, dtype=torch.int64)).tolist()
    return found


def test_length_is_punished_before_the_baseline() -> None:
    """Both right, one overlong by half the buffer: rewards 1 and 0.5, mean 0.75."""
    got = advantages([1.0, 1.0], [50, 90], advantage="dr_grpo", overlong_buffer=20)
    assert got == pytest.approx([0.25, -0.25])


def test_scale_then_clip() -> None:
    assert advantages([0.0, 1.0], [1, 1], advantage="dr_grpo", reward_scale=10.0, advantage_clip=2.0) == [-2.0, 2.0]


def test_opo_is_told_how_long_answers_are() -> None:
    """Rewards 1 and 0 of answers of 3 and 1 trained tokens: the baseline is 3/4."""
    maker = AdvantageSamples(recipe_of(algorithm={"advantage": "opo"}))
    worth, group = torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.int64)
    assert maker.advantages(worth, group, torch.tensor([3, 1])).tolist() == pytest.approx([0.25, -0.75])


def test_an_answer_that_was_cut_off_is_worth_less_but_never_more() -> None:
    """Scales first: 2 · 1 and 2 · 1 · .5, mean 1.5. A bad answer does not get better by being cut off."""
    settings = dict(advantage="dr_grpo", reward_scale=2.0, truncated_scale=0.5)
    cut = torch.tensor([False, True])
    assert advantages([1.0, 1.0], [1, 1], cut, **settings) == pytest.approx([0.5, -0.5])
    assert advantages([-1.0, -1.0], [1, 1], cut, **settings) == [0.0, 0.0]


def test_filters_name_their_reason() -> None:
    judge = maker(filters={"zero_variance": True, "pass_rate_min": 0.2, "pass_rate_max": 0.8}).filter_reason
    assert judge(torch.tensor([0.0, 1.0])) is None
    assert judge(torch.tensor([1.0, 1.0])) == "zero_variance"
    assert judge(torch.tensor([0.9, 1.0])) == "pass_rate"
    assert judge(torch.tensor([])) == "no_valid_sample"


def test_settings_are_checked_when_the_run_starts() -> None:
    with pytest.raises(UnknownChoice, match="did you mean 'grpo'"):
        maker(advantage="grop")
    with pytest.raises(ValueError, match="buffer <= max_length"):
        maker(overlong_buffer=500)
    for wrong in ({"truncated_scale": 2.0}, {"advantage_clip": 0.0}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            maker(**wrong)
