"""The order of shaping, filters, estimator and clip."""

import pytest
import torch

from services.learner.algorithms.advantage_stage import AdvantageStage
from services.learner.interface.settings import AdvantageSettings

GROUP = torch.tensor([0, 0])
VALID = torch.tensor([True, True])
WHOLE = torch.tensor([False, False])


def test_length_is_punished_before_the_baseline():
    """Both right, one overlong by half the buffer: rewards 1 and 0.5, mean 0.75."""
    stage = AdvantageStage(AdvantageSettings(estimator="dr_grpo", overlong_buffer=20, max_tokens=100))
    got = stage.advantages(torch.tensor([1.0, 1.0]), GROUP, VALID, torch.tensor([50, 90]), WHOLE)
    assert got.tolist() == pytest.approx([0.25, -0.25])


def test_scale_then_clip():
    stage = AdvantageStage(AdvantageSettings(estimator="dr_grpo", reward_scale=10.0, clip=2.0))
    got = stage.advantages(torch.tensor([0.0, 1.0]), GROUP, VALID, torch.tensor([1, 1]), WHOLE)
    assert got.tolist() == [-2.0, 2.0]


def test_an_answer_that_was_cut_off_is_worth_less_but_never_more():
    """Scales first: 2 · 1 and 2 · 1 · .5, mean 1.5. A bad answer does not get better by being cut off."""
    stage = AdvantageStage(AdvantageSettings(estimator="dr_grpo", reward_scale=2.0, truncated_scale=0.5))
    cut = torch.tensor([False, True])
    lengths = torch.tensor([1, 1])
    assert stage.advantages(torch.tensor([1.0, 1.0]), GROUP, VALID, lengths, cut).tolist() == pytest.approx([0.5, -0.5])
    assert stage.advantages(torch.tensor([-1.0, -1.0]), GROUP, VALID, lengths, cut).tolist() == [0.0, 0.0]


def test_filters_name_their_reason():
    stage = AdvantageStage(AdvantageSettings(drop_zero_variance=True, pass_rate=(0.2, 0.8)))
    assert stage.filter_reason(torch.tensor([0.0, 1.0]), VALID) is None
    assert stage.filter_reason(torch.tensor([1.0, 1.0]), VALID) == "zero_variance"
    assert stage.filter_reason(torch.tensor([0.9, 1.0]), VALID) == "pass_rate"
    assert stage.filter_reason(torch.tensor([0.9, 1.0]), ~VALID) == "no_valid_sample"


def test_settings_are_checked_when_the_run_starts():
    for settings, message in [
        (AdvantageSettings(estimator="grop"), "did you mean 'grpo'"),
        (AdvantageSettings(overlong_buffer=5), "buffer <= max_length"),
        (AdvantageSettings(truncated_scale=2.0), "0 <= factor <= 1"),
        (AdvantageSettings(clip=0.0), "clip must be positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            AdvantageStage(settings)
