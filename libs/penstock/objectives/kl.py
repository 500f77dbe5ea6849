"""KL to a reference policy as a loss, on-policy or weighted for off-policy samples.

The *value* of an estimator and its *gradient* answer different questions: with samples from the current policy, k1 has
mean KL(π‖ref) but a gradient of mean zero, k2 has the gradient of KL(π‖ref), k3 that of KL(ref‖π). Off-policy, the
importance weight exp(current − behaviour) repairs this: with its gradient times k3, or detached times k2, both are
unbiased for ∇KL(π‖ref). Source: Schulman 2020, "Approximating KL divergence"; Tang & Munos 2025.
"""

from typing import Literal

import torch
from torch import Tensor

from penstock.objectives.inputs import LOG_RATIO_LIMIT, LossInputs
from penstock.objectives.registry import kl_estimators

VALUE_LIMIT = 10.0

Importance = Literal["none", "differentiable", "detached"]


def _log_ratio(current: Tensor, reference: Tensor) -> Tensor:
    return (reference - current).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


@kl_estimators("k1")
def k1(current: Tensor, reference: Tensor) -> Tensor:
    """−Δ, Δ = reference − current; unbiased value, useless as a loss on-policy."""
    return (-_log_ratio(current, reference)).clamp(-VALUE_LIMIT, VALUE_LIMIT)


@kl_estimators("k2")
def k2(current: Tensor, reference: Tensor) -> Tensor:
    """Δ²/2."""
    return (_log_ratio(current, reference).square() / 2).clamp(-VALUE_LIMIT, VALUE_LIMIT)


@kl_estimators("k3")
def k3(current: Tensor, reference: Tensor) -> Tensor:
    """e^Δ − 1 − Δ, never negative."""
    delta = _log_ratio(current, reference)
    return (delta.exp() - 1.0 - delta).clamp(-VALUE_LIMIT, VALUE_LIMIT)


@kl_estimators("abs")
def absolute(current: Tensor, reference: Tensor) -> Tensor:
    """|Δ|: no estimate of the KL, but of how far tokens moved; its gradient is of one size wherever Δ is not 0."""
    return _log_ratio(current, reference).abs().clamp(max=VALUE_LIMIT)


@kl_estimators("k1+")
def k1_straight_through(current: Tensor, reference: Tensor) -> Tensor:
    """The value of k1 with the gradient of k2, which is that of KL(π‖ref) on-policy (verl's `kl+`)."""
    return _straight_through(k1(current, reference), k2(current, reference))


@kl_estimators("k3+")
def k3_straight_through(current: Tensor, reference: Tensor) -> Tensor:
    """The value of k3 with the gradient of k2, which is that of KL(π‖ref) on-policy (verl's `low_var_kl+`)."""
    return _straight_through(k3(current, reference), k2(current, reference))


def _straight_through(value: Tensor, gradient: Tensor) -> Tensor:
    return value.detach() + (gradient - gradient.detach())


def kl_in_reward(
    behaviour: Tensor, reference: Tensor, mask: Tensor, sequence: Tensor, group: Tensor, coefficient: float
) -> Tensor:
    """float64 [N]: what a KL penalty in the reward adds to each sequence's advantage.

    A sequence's reward falls by coefficient · Σ_t (g_t − r_t) over its trained tokens, k1 of the policy that drew it
    (off-policy data included, so no weight is needed); its advantage changes by that minus the mean over its group,
    which is the baseline's own change. Unlike verl's use_kl_in_reward, which adds the penalty before an estimator that
    divides by a standard deviation, the penalty keeps its unit: the coefficient means the same whatever rewards vary.

    behaviour, reference, mask: [T]. sequence: int64 [T], 0 … N−1. group: int64 [N], 0 … G−1.
    """
    log_ratio = -_log_ratio(behaviour, reference) * mask
    sums = log_ratio.new_zeros(len(group), dtype=torch.float64).index_add(0, sequence, log_ratio.to(torch.float64))
    zeros = sums.new_zeros(int(group.max()) + 1)
    means = zeros.index_add(0, group, sums) / zeros.index_add(0, group, torch.ones_like(sums))
    return -coefficient * (sums - means[group])


def kl_loss(
    inputs: LossInputs,
    estimator: str,
    importance: Importance,
    *,
    log_ratio_limit: float = LOG_RATIO_LIMIT,
    value_limit: float = VALUE_LIMIT,
) -> Tensor:
    """[T] KL penalty before its coefficient. Needs `inputs.reference`; raises ValueError without it.

    importance: `none` (samples are on-policy), `differentiable` (exp(c−g) with its gradient; use with k3) or
    `detached` (sg(exp(c−g)); use with k2). Log-ratios Δ are clamped to ± log_ratio_limit before the estimator, and its
    values to ± value_limit after it; what is clamped has no gradient.
    """
    if inputs.reference is None:
        raise ValueError("a KL term needs reference log-probabilities")
    apart = inputs.reference - inputs.current
    near = inputs.current + apart.clamp(-log_ratio_limit, log_ratio_limit)
    reference = torch.where(apart.abs() > log_ratio_limit, near, inputs.reference)
    value: Tensor = kl_estimators.get(estimator)(inputs.current, reference).clamp(-value_limit, value_limit)
    if importance == "none":
        return value
    log_weight = (inputs.current - inputs.behaviour).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if importance == "detached":
        log_weight = log_weight.detach()
    elif importance != "differentiable":
        raise ValueError(f"unknown importance {importance!r}; valid: none, differentiable, detached")
    return torch.exp(log_weight) * value
