"""KL estimators: values by hand; gradients in expectation, exactly, by enumerating a small distribution."""

import math

import pytest
import torch

from penstock.objectives import LossInputs, kl, kl_estimators, proximal

LOGITS = torch.tensor([0.3, -0.5, 1.2, 0.1], dtype=torch.float64)
REFERENCE = torch.log_softmax(torch.tensor([0.0, 0.4, 0.2, -0.9], dtype=torch.float64), 0)
BEHAVIOUR = torch.log_softmax(torch.tensor([0.5, 0.5, -0.2, 0.3], dtype=torch.float64), 0)


def expected_gradient(estimator: str, importance: kl.Importance, sampler: torch.Tensor | None) -> torch.Tensor:
    """∇ of the loss's expectation over samples from `sampler` (None: from the policy itself), as autograd sees it:
    the samples are fixed, so the sampling probabilities carry no gradient."""
    logits = LOGITS.clone().requires_grad_()
    current = torch.log_softmax(logits, 0)
    behaviour = current.detach() if sampler is None else sampler
    zeros = torch.zeros(4)
    inputs = LossInputs(current, zeros, behaviour, zeros, torch.ones(4), zeros.long(), 1, REFERENCE)
    loss = (behaviour.exp() * kl.kl_loss(inputs, estimator, importance)).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


def true_gradient(forward: bool) -> torch.Tensor:
    """∇KL(π‖ref) (forward=False) or ∇KL(ref‖π), by central differences of the sum over all tokens: no autograd."""

    def divergence(logits: torch.Tensor) -> torch.Tensor:
        current = torch.log_softmax(logits, 0)
        p, q = (REFERENCE, current) if forward else (current, REFERENCE)
        return (p.exp() * (p - q)).sum()

    step = 1e-5 * torch.eye(len(LOGITS), dtype=torch.float64)
    return torch.stack([(divergence(LOGITS + h) - divergence(LOGITS - h)) / 2e-5 for h in step])


def test_values() -> None:
    """Δ = ln 2: k1 = −ln 2, k2 = ln²2 / 2, k3 = 2 − 1 − ln 2."""
    current, reference = torch.tensor([-2.0]), torch.tensor([-2.0 + math.log(2)])
    assert kl_estimators.get("k1")(current, reference).item() == pytest.approx(-math.log(2), abs=1e-6)
    assert kl_estimators.get("k2")(current, reference).item() == pytest.approx(math.log(2) ** 2 / 2, abs=1e-6)
    assert kl_estimators.get("k3")(current, reference).item() == pytest.approx(1 - math.log(2), abs=1e-6)


def test_abs_is_how_far_a_token_moved() -> None:
    for moved, slope in ((0.7, -1.0), (-0.7, 1.0)):
        current = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
        value = kl_estimators.get("abs")(current, current.detach() + moved)
        assert value.item() == pytest.approx(0.7)
        assert torch.autograd.grad(value.sum(), current)[0].item() == slope


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_straight_through_has_the_value_of_one_and_the_gradient_of_k2(name: str) -> None:
    """On-policy that gradient is the KL's own, which neither k1's nor k3's is."""
    current = torch.log_softmax(LOGITS, 0).requires_grad_()
    both = kl_estimators.get(name + "+")(current, REFERENCE)
    assert torch.equal(both, kl_estimators.get(name)(current, REFERENCE))
    torch.testing.assert_close(expected_gradient(name + "+", "none", None), true_gradient(False))


def test_k1_and_k3_have_the_value_of_the_kl() -> None:
    current = torch.log_softmax(LOGITS, 0)
    true = (current.exp() * (current - REFERENCE)).sum()
    for name in ("k1", "k3"):
        assert (current.exp() * kl_estimators.get(name)(current, REFERENCE)).sum().item() == pytest.approx(true.item())


def test_on_policy_gradients() -> None:
    assert expected_gradient("k1", "none", None).abs().max() < 1e-12
    torch.testing.assert_close(expected_gradient("k2", "none", None), true_gradient(forward=False))
    torch.testing.assert_close(expected_gradient("k3", "none", None), true_gradient(forward=True))


@pytest.mark.parametrize(("estimator", "importance"), [("k3", "differentiable"), ("k2", "detached")])
def test_off_policy_gradients_are_those_of_the_kl_to_the_reference(estimator: str, importance: kl.Importance) -> None:
    torch.testing.assert_close(expected_gradient(estimator, importance, BEHAVIOUR), true_gradient(forward=False))


def test_unweighted_off_policy_gradients_are_wrong() -> None:
    """Why the weight is there at all."""
    wrong = expected_gradient("k2", "none", BEHAVIOUR)
    assert (wrong - true_gradient(forward=False)).abs().max() > 0.01


def test_extreme_tokens_are_bounded() -> None:
    current, reference = torch.tensor([-100.0, -0.1], requires_grad=True), torch.tensor([-0.1, -100.0])
    for name in kl_estimators.names():
        value = kl_estimators.get(name)(current, reference)
        assert value.abs().max() <= 10.0
        (gradient,) = torch.autograd.grad(value.sum(), current)
        assert torch.isfinite(gradient).all()


def test_a_missing_reference_is_refused() -> None:
    zeros = torch.zeros(1)
    inputs = LossInputs(zeros, zeros, zeros, zeros, zeros, zeros.long(), 1)
    with pytest.raises(ValueError, match="reference"):
        kl.kl_loss(inputs, "k3", "none")


def test_a_penalty_in_the_reward_moves_advantages_within_groups_alone() -> None:
    """Group 0: KL 0.5 and 1.5 over its trained tokens, mean 1; group 1 has one sequence, whose baseline is itself."""
    behaviour = torch.tensor([-1.0, -1.0, -2.0, -1.0, -3.0])
    reference = torch.tensor([-1.5, -9.0, -2.5, -2.0, -1.0])
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])
    sequence, group = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 0, 1])
    change = kl.kl_in_reward(behaviour, reference, mask, sequence, group, 0.2)
    assert change.tolist() == pytest.approx([0.1, -0.1, 0.0])


def test_its_expected_gradient_is_that_of_the_kl_of_what_was_drawn() -> None:
    """Σ_y π(y) A(y) ∇log π(y) with A = −β log(π/ref), less any baseline, is −β ∇KL(π‖ref): all samples, exactly."""
    logits = torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64), 0)
    logp = torch.log_softmax(logits, 0)
    p, one, each = logp.detach().exp(), torch.ones(3, dtype=torch.float64), torch.arange(3)
    change = kl.kl_in_reward(logp.detach(), reference, one, each, torch.zeros(3, dtype=torch.int64), 1.0)
    (got,) = torch.autograd.grad((p * change * logp).sum(), logits, retain_graph=True)
    (true,) = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), logits)
    torch.testing.assert_close(got, -true)


def test_the_interpolated_proximal_policy_is_exact_where_log_probs_move_evenly() -> None:
    """A token drawn at version 3 for weights of version 5 (age 2): log-probs g, g+d, g+2d, g+3d at 3, 4, 5, 6."""
    g, d = torch.tensor([-2.0, -2.0, -2.0]), torch.tensor([0.3, -0.2, 0.5])
    current = (g + 3 * d).requires_grad_()
    p = proximal.interpolated(current, g, torch.tensor([2.0, 2.0, 2.0]))
    torch.testing.assert_close(p, g + 2 * d)
    assert not p.requires_grad
    fresh = proximal.interpolated(current, g, torch.zeros(3))
    torch.testing.assert_close(fresh, g, msg="a fresh token's own policy is its proximal one")


def test_what_is_clamped_has_no_gradient() -> None:
    """Δ = 1, 3, −3 with limits 2 and 1.5: k2 is ½, 1.5 (2 without the second), 1.5; only the first has a gradient."""
    current = torch.tensor([-1.0, -4.0, -1.0], requires_grad=True)
    zeros = torch.zeros(3)
    reference = torch.tensor([0.0, -1.0, -4.0])
    inputs = LossInputs(current, zeros, zeros, zeros, torch.ones(3), zeros.long(), 1, reference)
    assert kl.kl_loss(inputs, "k2", "none").tolist() == [0.5, 4.5, 4.5]
    assert kl.kl_loss(inputs, "k2", "none", log_ratio_limit=2.0).tolist() == [0.5, 2.0, 2.0]
    value = kl.kl_loss(inputs, "k2", "none", log_ratio_limit=2.0, value_limit=1.5)
    assert value.tolist() == [0.5, 1.5, 1.5]
    for given in (value, kl.kl_loss(inputs, "k2", "none", log_ratio_limit=2.0)):
        (gradient,) = torch.autograd.grad(given.sum(), current)
        assert gradient.tolist() == [-1.0, 0.0, 0.0]
