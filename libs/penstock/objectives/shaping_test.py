"""Length shaping and group filters by hand."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.objectives import shaping


def test_overlong_penalty() -> None:
    """max 100, buffer 20: free up to 80, half way at 90, −1 at 100 and never below."""
    got = shaping.overlong_penalty(torch.tensor([10, 80, 90, 100, 500]), 100, 20)
    assert got.tolist() == pytest.approx([0.0, 0.0, -0.5, -1.0, -1.0])
    with pytest.raises(ValueError, match="0 < buffer <= max_length"):
        shaping.overlong_penalty(torch.tensor([1]), 10, 0)


def test_zero_variance_is_equality() -> None:
    rewards = torch.tensor([0.1, 0.1, 0.1, 1.0, 0.0, 5.0, 5.0])
    group = torch.tensor([4, 4, 4, 7, 7, 9, 9])
    valid = torch.tensor([True] * 7)
    assert shaping.zero_variance_groups(rewards, group, valid) == [4, 9]
    valid[4] = False  # the only other reward of group 7 does not count
    assert shaping.zero_variance_groups(rewards, group, valid) == [4, 7, 9]


def test_pass_rate_window() -> None:
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    group = torch.tensor([0, 0, 1, 1, 2, 2])
    valid = torch.tensor([True] * 6)
    assert shaping.pass_rate_groups_outside(rewards, group, valid, 0.1, 0.9) == [0, 2]
    assert shaping.pass_rate_groups_outside(rewards, group, valid, 0.0, 1.0) == []
    valid[4:] = False
    assert shaping.pass_rate_groups_outside(rewards, group, valid, 0.0, 1.0) == [2]


def test_stop_properly_takes_a_part_of_what_is_positive() -> None:
    rewards, cut = torch.tensor([1.0, 1.0, -1.0, 0.0]), torch.tensor([False, True, True, True])
    assert shaping.stop_properly(rewards, cut, 0.25).tolist() == [1.0, 0.25, -1.0, 0.0]
    with pytest.raises(ValueError, match="0 <= factor <= 1"):
        shaping.stop_properly(rewards, cut, -1.0)


GROUPED = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 1.0]), st.integers(0, 4), st.booleans()), min_size=1, max_size=30
)


@given(GROUPED, st.randoms(use_true_random=False))
def test_filters_judge_whole_groups_by_id_in_any_order(
    rows: list[tuple[float, int, bool]], random: random.Random
) -> None:
    """Against the definition, group by group, however the rows of a batch are ordered: a row-wise filter, or one that
    takes neighbours for a group, would drop members of one group and keep the others."""

    def judged(some: list[tuple[float, int, bool]]) -> Any:
        rewards, group, valid = (torch.tensor(column) for column in zip(*some, strict=True))
        return (
            shaping.zero_variance_groups(rewards, group, valid),
            shaping.pass_rate_groups_outside(rewards, group, valid, 0.1, 0.5),
        )

    constant, outside = [], []
    for name in sorted({group for _, group, _ in rows}):
        counted = [reward for reward, group, valid in rows if group == name and valid]
        if len(set(counted)) <= 1:
            constant.append(name)
        mean = sum(map(float, torch.tensor(counted))) / len(counted) if counted else -1.0
        if not 0.1 <= mean <= 0.5:
            outside.append(name)
    assert judged(rows) == (constant, outside)
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert judged(shuffled) == (constant, outside)
