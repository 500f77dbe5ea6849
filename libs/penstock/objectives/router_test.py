"""The balance of experts against hand-computed values and gradients."""

import pytest
import torch

from penstock.objectives.router import balance, load


def test_even_use_is_one_and_one_expert_alone_is_all_of_them() -> None:
    """Two experts, one chosen. First sequence: probabilities (.75, .25) and (.25, .75), one choice each: f = P = ½.
    Second: (.9, .1) twice: f = (1, 0), so 2 · .9."""
    chances = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.9, 0.1], [0.9, 0.1]])
    found = balance(chances.log(), 1, torch.tensor([0, 0, 1, 1]), 3)
    assert found.tolist() == pytest.approx([1.0, 1.8, 0.0])


def test_the_gradient_goes_through_the_probabilities_alone() -> None:
    """d(2 · p₀)/dz₀ = 2 p₀ (1 − p₀) for the one token of a sequence, of which expert 0 was chosen."""
    logits = torch.tensor([[2.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(balance(logits, 1, torch.tensor([0]), 1).sum(), logits)
    p = torch.softmax(logits, -1)[0, 0].item()
    assert gradient[0].tolist() == pytest.approx([2 * p * (1 - p), -2 * p * (1 - p)])


def test_several_experts_are_chosen_at_once() -> None:
    """Four experts, two chosen: f = (½, ½, 0, 0) and P even: 4 · ¼ = 1."""
    logits = torch.tensor([[1e-3, 1e-3, 0.0, 0.0]])
    assert balance(logits, 2, torch.tensor([0]), 1).tolist() == pytest.approx([1.0], abs=1e-3)


def test_load_is_even_skewed_or_dead_by_hand() -> None:
    assert load(torch.full((2, 4), 5.0)) == pytest.approx((1.0, 0.25, 0.0))
    entropy, largest, dead = load(torch.tensor([[8.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]]))
    assert (entropy, largest, dead) == pytest.approx((0.5, 1.0, 3 / 8))
    assert load(torch.zeros(2, 4)) == (0.0, 0.0, 0.0)
