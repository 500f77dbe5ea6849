"""Advantages against hand-computed values, and the defects that other systems have had here."""

from typing import Any

import pytest
import torch

from penstock.objectives import advantage_estimators

ALL: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in advantage_estimators.names() if name != "gdpo"),
    ("rloo", {"normalise": True}),
]


def estimate(
    name: str,
    rewards: list[float],
    group: list[int] | None = None,
    valid: list[bool] | None = None,
    lengths: list[int] | None = None,
    **settings: Any,
) -> list[float]:
    n = len(rewards)
    told = [torch.tensor(lengths or range(1, n + 1))] if name in ("opo", "reinforce_pp") else []
    return advantage_estimators.make(name, **settings)(
        torch.tensor(rewards),
        torch.tensor(group or [0] * n, dtype=torch.int64),
        torch.tensor(valid or [True] * n, dtype=torch.bool),
        *told,
    ).tolist()


def test_grpo() -> None:
    """Rewards 0, 1, 1: mean 2/3, unbiased std 1/√3."""
    assert estimate("grpo", [0.0, 1.0, 1.0]) == pytest.approx([-1.154699, 0.577349, 0.577349], abs=1e-5)


def test_dr_grpo() -> None:
    assert estimate("dr_grpo", [0.0, 1.0, 1.0]) == pytest.approx([-2 / 3, 1 / 3, 1 / 3])


def test_opo() -> None:
    """Lengths 1, 2, 3: the baseline of rewards 0, 1, 1 is 5/6, of 1, 0, 0 it is 1/6; who does not vote has none."""
    assert estimate("opo", [0.0, 1.0, 1.0]) == pytest.approx([-5 / 6, 1 / 6, 1 / 6])
    assert estimate("opo", [1.0, 0.0, 0.0]) == pytest.approx([5 / 6, -1 / 6, -1 / 6])
    assert estimate("opo", [1.0, 0.0, 9.0], valid=[True, True, False]) == pytest.approx([2 / 3, -1 / 3, 0.0])


def test_rloo() -> None:
    """Against the mean of the others: 0 − 1, 1 − ½, 1 − ½."""
    assert estimate("rloo", [0.0, 1.0, 1.0]) == pytest.approx([-1.0, 0.5, 0.5])


def test_batch_norm() -> None:
    """Centred: ∓½ and 0, 0 (trivial); rms over the non-trivial ones with n−1: √(.5/1)."""
    got = estimate("batch_norm", [0.0, 1.0, 5.0, 5.0], [3, 3, 9, 9])
    assert got == pytest.approx([-0.5 / 0.5**0.5, 0.5 / 0.5**0.5, 0.0, 0.0], abs=1e-5)


def test_reinforce_pp() -> None:
    """Centred −½, ½, −1, 1: mean 0, std √(2.5/3)."""
    std = (2.5 / 3) ** 0.5
    got = estimate("reinforce_pp", [0.0, 1.0, 0.0, 2.0], [0, 0, 1, 1])
    assert got == pytest.approx([-0.5 / std, 0.5 / std, -1 / std, 1 / std], abs=1e-5)


def test_batch_norm_by_the_rewards_themselves() -> None:
    """Rewards 0, 1, 5, 5: mean 2.75, squares 7.5625 + 3.0625 + 2 · 5.0625 = 20.75, over three."""
    std = (20.75 / 3) ** 0.5
    got = estimate("batch_norm", [0.0, 1.0, 5.0, 5.0], [3, 3, 9, 9], raw=True)
    assert got == pytest.approx([-0.5 / std, 0.5 / std, 0.0, 0.0], abs=1e-5)


def test_reinforce_pp_over_tokens() -> None:
    """Lengths 1, 2, 3, 4: without a baseline, rewards 1, 0, 1, 0 have mean .4 over ten tokens and variance 2.4 / 9."""
    got = estimate("reinforce_pp", [1.0, 0.0, 1.0, 0.0], [0, 0, 1, 1], baseline=False, over_tokens=True)
    std = (2.4 / 9) ** 0.5
    assert got == pytest.approx([0.6 / std, -0.4 / std, 0.6 / std, -0.4 / std], abs=1e-5)
    weighted = sum(length * advantage for length, advantage in zip((1, 2, 3, 4), got, strict=True))
    assert weighted == pytest.approx(0.0, abs=1e-6), "the mean over tokens is 0"
    got = estimate("reinforce_pp", [1.0, 0.0, 1.0, 0.0], [0, 0, 1, 1], over_tokens=True)
    mean, square = -0.5 * 2 / 10, 10 * 0.25
    std = ((square - 10 * mean**2) / 9) ** 0.5
    assert got == pytest.approx([(x - mean) / std for x in (0.5, -0.5, 0.5, -0.5)], abs=1e-5)


def test_maxrl() -> None:
    """Mean ¼: a rare success counts 3, its failures −1."""
    assert estimate("maxrl", [0.0, 0.0, 0.0, 1.0]) == pytest.approx([-1, -1, -1, 3], abs=1e-4)
    with pytest.raises(ValueError, match="rewards >= 0"):
        estimate("maxrl", [-1.0, 1.0])


@pytest.mark.parametrize(("name", "settings"), ALL)
def test_leave_one_out_does_not_explode(name: str, settings: dict[str, Any]) -> None:
    """[0] + [0.98]×15: the others' standard deviation is rounding noise, and dividing by it gives 1e16."""
    got = estimate(name, [0.0] + [0.98] * 15, **settings)
    assert max(map(abs, got)) < 5.0
    assert got[0] < 0 < got[1]


@pytest.mark.parametrize(("name", "settings"), ALL)
def test_equal_rewards_that_are_not_exact_give_exactly_zero(name: str, settings: dict[str, Any]) -> None:
    """0.1 summed and divided is not 0.1: a test by standard deviation lets noise / ε through."""
    assert estimate(name, [0.1] * 7, **settings) == [0.0] * 7


@pytest.mark.parametrize(("name", "settings"), ALL)
def test_masked_samples_do_not_vote(name: str, settings: dict[str, Any]) -> None:
    valid = [True, True, True, False]
    with_junk = estimate(name, [0.0, 1.0, 1.0, 1000.0], valid=valid, **settings)
    assert with_junk == pytest.approx([*estimate(name, [0.0, 1.0, 1.0], **settings), 0.0])


@pytest.mark.parametrize(("name", "settings"), ALL)
def test_an_invalid_sample_may_have_any_reward(name: str, settings: dict[str, Any]) -> None:
    assert estimate(name, [0.0, 1.0, float("nan")], valid=[True, True, False], **settings)[2] == 0.0
    with pytest.raises(ValueError, match="not finite"):
        estimate(name, [0.0, float("nan")], **settings)


@pytest.mark.parametrize(("name", "settings"), ALL)
def test_groups_are_told_apart_by_id_in_any_order(name: str, settings: dict[str, Any]) -> None:
    rewards, group = [0.0, 3.0, 1.0, 7.0, 1.0, 3.0], [8, 2, 8, 2, 8, 2]
    order = [5, 0, 3, 2, 4, 1]
    lengths = [4, 2, 9, 1, 3, 5]
    straight = estimate(name, rewards, group, lengths=lengths, **settings)
    shuffled = estimate(
        name,
        [rewards[i] for i in order],
        [group[i] for i in order],
        lengths=[lengths[i] for i in order],
        **settings,
    )
    assert shuffled == pytest.approx([straight[i] for i in order])


@pytest.mark.parametrize(("name", "settings"), ALL)
def test_a_group_of_one_teaches_nothing(name: str, settings: dict[str, Any]) -> None:
    assert estimate(name, [3.0], **settings) == [0.0]


@pytest.mark.parametrize(("name", "settings"), ALL)
def test_an_empty_or_wholly_invalid_batch(name: str, settings: dict[str, Any]) -> None:
    assert estimate(name, [], **settings) == []
    assert estimate(name, [1.0, 0.0], valid=[False, False], **settings) == [0.0, 0.0]


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"must be one \[N\] each"):
        estimate("grpo", [0.0, 1.0], group=[0])


def test_gdpo_keeps_the_small_component_that_the_total_drowns() -> None:
    """Components (0, 0), (0, .01), (100, 0), (100, .01): within the total the second one is noise."""
    components = torch.tensor([[0.0, 0.0], [0.0, 0.01], [100.0, 0.0], [100.0, 0.01]])
    group, valid = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool)
    got = advantage_estimators.make("gdpo", weights=(1.0, 1.0))(components, group, valid).tolist()
    assert got[0] < got[1] and got[1] == pytest.approx(got[2], abs=1e-3) and got[2] < got[3]
    total = estimate("grpo", components.sum(1).tolist())
    assert total[0] == pytest.approx(total[1], abs=1e-3)
    mean = sum(got) / 4
    assert mean == pytest.approx(0, abs=1e-6) and sum(x * x for x in got) / 3 == pytest.approx(1, abs=1e-3)
    only_first = advantage_estimators.make("gdpo", weights=(1.0, 0.0))(components, group, valid).tolist()
    assert only_first[0] == pytest.approx(only_first[1]) and only_first[0] < only_first[2]
