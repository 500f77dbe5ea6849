"""Policy losses against hand-computed values and gradients."""

import math

import pytest
import torch

from penstock.objectives import LossInputs, TokenLoss, negative_log_likelihood, policy_losses
from penstock.objectives.inputs import sequence_mean

LOG = math.log


def inputs(
    current: list[float],
    proximal: list[float],
    advantage: list[float],
    sequence: list[int] | None = None,
    mask: list[float] | None = None,
    behaviour: list[float] | None = None,
) -> LossInputs:
    n = len(current)
    sequence = sequence or [0] * n
    return LossInputs(
        current=torch.tensor(current, requires_grad=True),
        proximal=torch.tensor(proximal),
        behaviour=torch.tensor(behaviour or proximal),
        advantage=torch.tensor(advantage),
        mask=torch.tensor(mask or [1.0] * n),
        sequence=torch.tensor(sequence),
        sequences=max(sequence) + 1,
    )


def gradient(loss: TokenLoss, of: LossInputs) -> list[float]:
    (result,) = torch.autograd.grad(loss.values.sum(), of.current)
    return result.tolist()


def ratios(values: list[float], advantage: list[float]) -> LossInputs:
    return inputs([LOG(v) - 1.0 for v in values], [-1.0] * len(values), advantage)


def test_ppo_clip_values_and_gradients() -> None:
    """ρ = 1.1 and 2 with A = 1, 0.5 and 2 with A = −1; bounds 0.8 … 1.28. Inside, dℓ/dc = −ρA; outside, 0 where the
    bound is active, and still −ρA where moving back is what the bound is for."""
    x = ratios([1.1, 2.0, 0.5, 2.0], [1.0, 1.0, -1.0, -1.0])
    loss = policy_losses.make("ppo_clip")(x)
    assert loss.values.tolist() == pytest.approx([-1.1, -1.28, 0.8, 2.0])
    assert gradient(loss, x) == pytest.approx([-1.1, 0.0, 0.0, 2.0])
    assert loss.clipped.tolist() == [False, True, True, False]


def test_dual_clip_bounds_the_loss_of_a_bad_token() -> None:
    """A = −1, ρ = 5, d = 3: ℓ = 3 with gradient 0; A > 0 is untouched."""
    x = ratios([5.0, 2.0, 0.9], [-1.0, -1.0, 1.0])
    loss = policy_losses.make("ppo_clip", dual_clip=3.0)(x)
    assert loss.values.tolist() == pytest.approx([3.0, 2.0, -0.9])
    assert gradient(loss, x) == pytest.approx([0.0, 2.0, -0.9])
    assert loss.clipped.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="dual_clip must be greater than 1"):
        policy_losses.make("ppo_clip", dual_clip=0.5)(x)


def test_a_wild_token_is_not_nan() -> None:
    x = inputs([0.0, 0.0, 0.0], [-500.0] * 3, [0.0, 1.0, -1.0])
    for name in policy_losses.names():
        loss = policy_losses.make(name, **({"beta": 0.1} if name == "dro" else {}))(x)
        assert torch.isfinite(loss.values).all() and all(map(math.isfinite, gradient(loss, x))), name


def test_at_the_start_of_a_step_ppo_clip_is_the_policy_gradient() -> None:
    x = ratios([1.0, 1.0], [2.0, -3.0])
    assert gradient(policy_losses.make("ppo_clip")(x), x) == pytest.approx([-2.0, 3.0])


def test_cispo_caps_the_weight_and_keeps_every_gradient() -> None:
    """cap bounds the ratio itself: ρ = 8 counts as 5, and its gradient is −5·A, not 0."""
    x = ratios([2.0, 8.0], [1.0, -1.0])
    loss = policy_losses.make("cispo", cap=5.0)(x)
    assert loss.values.tolist() == pytest.approx([-2.0 * (LOG(2.0) - 1.0), 5.0 * (LOG(8.0) - 1.0)])
    assert gradient(loss, x) == pytest.approx([-2.0, 5.0])
    assert loss.clipped.tolist() == [False, True]


def test_gspo_uses_the_length_normalised_sequence_ratio() -> None:
    """Log-ratios (.2, .4) and (−.3): ρ = e^.3 and e^−.3; every token has its sequence's value. The gradient of a sum of
    n equal terms by one of n log-probs is −ρA."""
    x = inputs([-0.8, -0.6, -1.3], [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], sequence=[0, 0, 1])
    loss = policy_losses.make("gspo", clip_low=0.5, clip_high=0.5)(x)
    up, down = math.exp(0.3), math.exp(-0.3)
    assert loss.values.tolist() == pytest.approx([-up, -up, -down])
    assert gradient(loss, x) == pytest.approx([-up, -up, -down])


def test_a_tokens_weight_drops_that_very_token_of_gspo() -> None:
    """With a weight of 0 (icepop) its log-prob has no gradient, though its ratio is part of the sequence's."""
    x = inputs([-0.8, -0.6], [-1.0, -1.0], [1.0, 1.0])
    loss = policy_losses.make("gspo", clip_high=0.5)(x)
    (found,) = torch.autograd.grad((loss.values * torch.tensor([0.0, 1.0])).sum(), x.current)
    assert found.tolist() == pytest.approx([0.0, -math.exp(0.3)])


def test_cispo_has_a_floor_too() -> None:
    """ρ = .1, 1, 9 with floor .5 and cap 5: weights .5, 1, 5, all with the gradient of their own log-prob."""
    x = ratios([0.1, 1.0, 9.0], [1.0, 1.0, -1.0])
    loss = policy_losses.make("cispo", floor=0.5)(x)
    assert gradient(loss, x) == pytest.approx([-0.5, -1.0, 5.0])
    assert loss.clipped.tolist() == [True, False, True]
    with pytest.raises(ValueError, match="floor < cap"):
        policy_losses.make("cispo", floor=5.0)(x)


def test_gspo_clips_whole_sequences() -> None:
    x = inputs([-0.8, -0.6, -1.3], [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], sequence=[0, 0, 1])
    loss = policy_losses.make("gspo")(x)
    assert loss.clipped.tolist() == [True, True, False]
    assert gradient(loss, x)[:2] == [0.0, 0.0]


def test_vespo_reshapes_the_ratio_of_the_whole_answer() -> None:
    """c − g = (.1, .2): W = e^.3, φ = W²e^(3(1 − W)) with A > 0 and W³e^(2(1 − W)) with A < 0; the gradient is −φA.
    What the policy was before the step has no say."""
    wide = math.exp(0.3)
    for advantage, power, decay in ((2.0, 2, 3), (-2.0, 3, 2)):
        x = inputs([-0.9, -0.8], [-7.0, -7.0], [advantage] * 2, behaviour=[-1.0, -1.0])
        loss = policy_losses.make("vespo")(x)
        phi = wide**power * math.exp(decay * (1 - wide))
        assert loss.values.tolist() == pytest.approx([phi * advantage * 0.9, phi * advantage * 0.8])
        assert gradient(loss, x) == pytest.approx([-phi * advantage] * 2)
    same = inputs([-1.0], [-1.0], [1.0])
    assert gradient(policy_losses.make("vespo")(same), same) == [-1.0]
    gone = inputs([-9.0], [-1.0], [-1.0])
    loss = policy_losses.make("vespo")(gone)
    assert gradient(loss, gone) == pytest.approx([math.exp(-24 + 2 * (1 - math.exp(-8.0)))], rel=1e-4)
    assert loss.clipped.tolist() == [True]


def test_geo_mean_clips_tokens_before_the_mean() -> None:
    """Log-ratios (.2, .9) with A = 1 and bound .4: s = e^.3; the clipped token has no gradient, the other its own. With
    A = −1 nothing is clipped above: s = e^.55."""
    x = inputs([-0.8, -0.1], [-1.0, -1.0], [1.0, 1.0])
    loss = policy_losses.make("geo_mean")(x)
    assert loss.values.tolist() == pytest.approx([-math.exp(0.3)] * 2)
    assert gradient(loss, x) == pytest.approx([-math.exp(0.3), 0.0])
    assert loss.clipped.tolist() == [False, True]
    x = inputs([-0.8, -0.1], [-1.0, -1.0], [-1.0, -1.0])
    loss = policy_losses.make("geo_mean")(x)
    assert loss.values.tolist() == pytest.approx([math.exp(0.55)] * 2)
    assert gradient(loss, x) == pytest.approx([math.exp(0.55)] * 2)
    x = inputs([-1.2, -1.9], [-1.0, -1.0], [-1.0, -1.0])
    assert policy_losses.make("geo_mean")(x).values.tolist() == pytest.approx([math.exp(-0.3)] * 2)


def test_gspo_ratio_ignores_masked_tokens() -> None:
    x = inputs([-0.8, -50.0], [-1.0, -1.0], [1.0, 1.0], mask=[1.0, 0.0])
    assert policy_losses.make("gspo", clip_high=9.0)(x).values[0].item() == pytest.approx(-math.exp(0.2))


def test_reinforce() -> None:
    x = inputs([-2.0, -0.5], [-9.0, -9.0], [3.0, -1.0])
    loss = policy_losses.make("reinforce")(x)
    assert loss.values.tolist() == pytest.approx([6.0, -0.5])
    assert gradient(loss, x) == pytest.approx([-3.0, 1.0])


def test_sapo_fades_where_ppo_cuts() -> None:
    """ρ = 1: value −2A, gradient −A. ρ = 3, A = 1, τ = 1: −4σ(2), gradient −4σ(2)(1 − σ(2))·3."""
    x = ratios([1.0, 3.0], [1.0, 1.0])
    loss = policy_losses.make("sapo")(x)
    s = 1 / (1 + math.exp(-2.0))
    assert loss.values.tolist() == pytest.approx([-2.0, -4 * s])
    assert gradient(loss, x) == pytest.approx([-1.0, -12 * s * (1 - s)])
    assert loss.clipped.tolist() == [False, True]


def test_dppo_bounds_probabilities_not_ratios() -> None:
    """π, μ = (.5, .2): moved .3 > δ with A > 0, dropped. (.02, .002): ratio 10 but moved .018, kept. (.1, .4), A < 0:
    dropped. (.1, .4), A > 0: kept, it pulls back."""
    pi, mu = [0.5, 0.02, 0.1, 0.1], [0.2, 0.002, 0.4, 0.4]
    x = inputs([LOG(v) for v in pi], [0.0] * 4, [1.0, 1.0, -1.0, 1.0], behaviour=[LOG(v) for v in mu])
    loss = policy_losses.make("dppo", tau=0.0)(x)
    assert loss.clipped.tolist() == [True, False, True, False]
    assert loss.values.tolist() == pytest.approx([0.0, -10.0, 0.0, -0.25], rel=1e-5)
    assert gradient(loss, x) == pytest.approx([0.0, -10.0, 0.0, -0.25], rel=1e-5)
    pulled = policy_losses.make("dppo", tau=0.5)(x)
    assert gradient(pulled, x)[0] == pytest.approx(LOG(2.5), rel=1e-5)


def test_dro() -> None:
    """c = −1, g = −3, A = 2, β = .5: −(−2 − ½·.5·4) = 3; gradient −A + β(c−g) = −1."""
    x = inputs([-1.0], [0.0], [2.0], behaviour=[-3.0])
    loss = policy_losses.make("dro", beta=0.5)(x)
    assert loss.values.tolist() == [3.0]
    assert gradient(loss, x) == [-1.0]


def test_negative_log_likelihood() -> None:
    assert negative_log_likelihood(inputs([-2.0], [0.0], [0.0])).tolist() == [2.0]


def test_sequence_mean_survives_infinities_outside_the_mask() -> None:
    x = inputs([-1.0, -3.0], [0.0, 0.0], [0.0, 0.0], mask=[1.0, 0.0])
    assert sequence_mean(torch.tensor([2.0, float("inf")]), x).tolist() == [2.0]


def test_names_and_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="unknown policy loss 'ppo_clp' .did you mean 'ppo_clip'.*cispo, dppo, dro"):
        policy_losses.make("ppo_clp")
    with pytest.raises(ValueError, match="'cispo' has no setting 'clip_high'; valid: cap"):
        policy_losses.make("cispo", clip_high=0.2)
    with pytest.raises(ValueError, match="'dro' needs the setting 'beta', which has no default"):
        policy_losses.make("dro")
    assert policy_losses.settings_of("ppo_clip") == {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": None}
