"""Length shaping and group filters by hand."""

import pytest
import torch

from penstock.objectives import shaping


def test_overlong_penalty():
    """max 100, buffer 20: free up to 80, half way at 90, −1 at 100 and never below."""
    got = shaping.overlong_penalty(torch.tensor([10, 80, 90, 100, 500]), 100, 20)
    assert got.tolist() == pytest.approx([0.0, 0.0, -0.5, -1.0, -1.0])
    with pytest.raises(ValueError, match="0 < buffer <= max_length"):
        shaping.overlong_penalty(torch.tensor([1]), 10, 0)


def test_zero_variance_is_equality():
    rewards = torch.tensor([0.1, 0.1, 0.1, 1.0, 0.0, 5.0, 5.0])
    group = torch.tensor([4, 4, 4, 7, 7, 9, 9])
    valid = torch.tensor([True] * 7)
    assert shaping.zero_variance_groups(rewards, group, valid) == [4, 9]
    valid[4] = False  # the only other reward of group 7 does not count
    assert shaping.zero_variance_groups(rewards, group, valid) == [4, 7, 9]


def test_pass_rate_window():
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    group = torch.tensor([0, 0, 1, 1, 2, 2])
    valid = torch.tensor([True] * 6)
    assert shaping.pass_rate_groups_outside(rewards, group, valid, 0.1, 0.9) == [0, 2]
    assert shaping.pass_rate_groups_outside(rewards, group, valid, 0.0, 1.0) == []
    valid[4:] = False
    assert shaping.pass_rate_groups_outside(rewards, group, valid, 0.0, 1.0) == [2]
