"""GAE and the value loss against values worked out by hand."""

import pytest
import torch

from penstock.objectives.critics import explained_variance, gae, value_loss, whitened


def f(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Two sequences; the first has an observation (masked) between its trained tokens, the second a prompt before them.
VALUES = f(0.5, 9.0, 1.0, 0.25, 9.0, 2.0, -1.0)
REWARDS = f(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 3.0)
MASK = f(1, 0, 1, 1, 0, 1, 1)
SEQUENCE = torch.tensor([0, 0, 0, 0, 1, 1, 1])


def estimate(discount: float, decay: float) -> tuple[list[float], list[float]]:
    made = gae(VALUES, REWARDS, MASK, SEQUENCE, 2, discount=discount, decay=decay)
    return made.advantages.tolist(), made.returns.tolist()


def test_values_over_the_trained_tokens_of_each_sequence() -> None:
    """γ = 0.9, λ = 0.5, γλ = 0.45. First: δ = 0.9·1 − 0.5, 0.9·0.25 − 1, 1 − 0.25; second: 0.9·(−1) − 2, 3 + 1."""
    third = 0.75
    second = -0.775 + 0.45 * third
    first = 0.4 + 0.45 * second
    last = 4.0
    before = -2.9 + 0.45 * last
    advantages, returns = estimate(0.9, 0.5)
    assert advantages == pytest.approx([first, 0, second, third, 0, before, last])
    assert returns == pytest.approx([first + 0.5, 0, second + 1, third + 0.25, 0, before + 2, last - 1])


def test_without_decay_returns_are_what_follows_of_the_reward_whatever_the_critic_says() -> None:
    advantages, returns = estimate(1.0, 1.0)
    assert returns == pytest.approx([1, 0, 1, 1, 0, 3, 3])
    assert advantages == pytest.approx([0.5, 0, 0, 0.75, 0, 1, 4])


def test_with_full_decay_an_advantage_looks_one_token_ahead() -> None:
    assert estimate(1.0, 0.0)[0] == pytest.approx([0.5, 0, -0.75, 0.75, 0, -3, 4])


def test_sequences_do_not_touch_each_other_whatever_their_lengths() -> None:
    both, _ = estimate(0.9, 0.7)
    alone = gae(VALUES[4:], REWARDS[4:], MASK[4:], SEQUENCE[4:] - 1, 1, discount=0.9, decay=0.7)
    assert alone.advantages.tolist() == pytest.approx(both[4:])


def test_nothing_trained_gives_zeros() -> None:
    made = gae(VALUES, REWARDS, MASK * 0, SEQUENCE, 2)
    assert made.advantages.tolist() == [0.0] * 7 == made.returns.tolist()


def test_whitening_is_over_trained_tokens_alone() -> None:
    scaled = whitened(f(1, 100, 2, 3), f(1, 0, 1, 1))
    assert scaled.tolist() == pytest.approx([-1, 0, 0, 1])


def test_the_worse_of_the_moved_and_the_held_value_counts() -> None:
    current = f(1.0, 0.5, 0.1, -1.0).requires_grad_()
    before, returns = f(0.0, 0.0, 0.0, 0.0), f(1.0, 0.1, 1.0, 1.0)
    loss, clipped = value_loss(current, before, returns, clip=0.2)
    # moved too far towards the return: held at .2; moved too far past it: as it is; little moved; moved away: as it is
    assert loss.tolist() == pytest.approx([0.5 * 0.64, 0.5 * 0.16, 0.5 * 0.81, 0.5 * 4.0])
    assert clipped.tolist() == [True, False, False, False]
    loss.sum().backward()
    assert current.grad is not None and current.grad.tolist() == pytest.approx([0.0, 0.4, -0.9, -2.0])
    plain, none = value_loss(current.detach(), before, returns, clip=None)
    assert plain.tolist() == pytest.approx([0.0, 0.08, 0.405, 2.0]) and not none.any()


def test_explained_variance() -> None:
    returns = f(0, 1, 2, 3)
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(f(1.5, 1.5, 1.5, 1.5), returns) == pytest.approx(0.0)
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
    assert explained_variance(returns, f(2, 2, 2, 2)) == 0.0
