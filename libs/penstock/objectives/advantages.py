"""Advantages from rewards, over intact groups.

All estimators: rewards [N], group [N] int64 (any ids; never derived from prompt text), valid [N] bool -> advantages [N]
in float64. Samples that are not valid (overlong, failed, reward invalid) do not vote in any baseline and get 0. A group
whose valid rewards are all *equal* gets exactly 0: equality is tested on the rewards, because the standard deviation of
equal but inexact floats is a tiny number, not zero, and dividing by it explodes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from penstock.objectives.registry import advantage_estimators

EPSILON = 1e-6


@dataclass(frozen=True)
class _Groups:
    """Per-group statistics of the valid rewards, spread back on samples: all [N] float64."""

    reward: Tensor
    valid: Tensor
    count: Tensor
    mean: Tensor
    std: Tensor
    live: Tensor  # valid, and the group's valid rewards are not all equal


def _groups(rewards: Tensor, group: Tensor, valid: Tensor) -> _Groups:
    if not rewards.shape == group.shape == valid.shape or rewards.dim() != 1:
        raise ValueError(f"rewards {rewards.shape}, group {group.shape}, valid {valid.shape} must be one [N] each")
    reward = rewards.to(torch.float64)
    if not bool(torch.isfinite(reward[valid]).all()):
        raise ValueError("a valid sample has a reward that is not finite")
    reward = torch.where(valid, reward, 0.0)
    index = torch.unique(group, return_inverse=True)[1]
    size = int(index.max()) + 1 if len(index) else 0
    vote = valid.to(torch.float64)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(size).index_add(0, index, values)[index]

    def extreme(fill: float, how: str) -> Tensor:
        start = reward.new_full((size,), fill)
        return start.scatter_reduce(0, index, torch.where(valid, reward, fill), how)[index]

    count = total(vote)
    mean = total(reward) / count.clamp(min=1)
    square = total(vote * (reward - mean).square())
    std = (square / (count - 1).clamp(min=1)).sqrt()
    trivial = extreme(float("inf"), "amin") == extreme(float("-inf"), "amax")
    return _Groups(reward, valid, count, mean, std, valid & (count > 1) & ~trivial)


def _centred(g: _Groups) -> Tensor:
    return torch.where(g.live, g.reward - g.mean, 0.0)


def _batch_std(values: Tensor, valid: Tensor, centre: bool) -> tuple[Tensor, Tensor]:
    """(mean, unbiased standard deviation) over valid samples; mean 0 where not asked for."""
    votes = values[valid]
    mean = votes.mean() if centre and len(votes) else values.new_zeros(())
    return mean, ((votes - mean).square().sum() / max(len(votes) - 1, 1)).sqrt()


@advantage_estimators("grpo")
def grpo(rewards: Tensor, group: Tensor, valid: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """(r − mean) / (std + ε) within the group, unbiased std. Source: DeepSeekMath (Shao et al. 2024)."""
    g = _groups(rewards, group, valid)
    return _centred(g) / (g.std + epsilon)


@advantage_estimators("dr_grpo")
def dr_grpo(rewards: Tensor, group: Tensor, valid: Tensor) -> Tensor:
    """r − mean within the group, no division. Source: Dr. GRPO (Liu et al. 2025)."""
    return _centred(_groups(rewards, group, valid))


@advantage_estimators("rloo")
def rloo(rewards: Tensor, group: Tensor, valid: Tensor, *, normalise: bool = False, epsilon: float = EPSILON) -> Tensor:
    """r − mean of the *other* valid members = (r − mean)·n/(n−1). Source: Ahmadian et al. 2024.

    `normalise` divides by the standard deviation of the whole group, never by that of the others: for rewards
    0, .98, .98, … the others' deviation is rounding noise and the quotient would be 1e16.
    """
    g = _groups(rewards, group, valid)
    advantage = _centred(g) * g.count / (g.count - 1).clamp(min=1)
    return advantage / (g.std + epsilon) if normalise else advantage


@advantage_estimators("reinforce_pp")
def reinforce_pp(rewards: Tensor, group: Tensor, valid: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """Group mean removed, then whitened (mean and std) over the valid samples of the batch.

    Source: REINFORCE++-baseline (Hu et al. 2025). Members of trivial groups keep 0 before whitening.
    """
    g = _groups(rewards, group, valid)
    centred = _centred(g)
    mean, std = _batch_std(centred, valid, centre=True)
    return torch.where(valid, (centred - mean) / (std + epsilon), 0.0)


@advantage_estimators("batch_norm")
def batch_norm(rewards: Tensor, group: Tensor, valid: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """Group mean removed, divided by the batch's root mean square of what is left: the default under staleness.

    One scale for the batch: an easy group with one odd reward is not blown up as it is by its own deviation. Trivial
    groups stay 0 and do not shift the others. Source: Magistral (Mistral 2025, section 2.1).
    """
    g = _groups(rewards, group, valid)
    centred = _centred(g)
    _, std = _batch_std(centred, g.live, centre=False)
    return centred / (std + epsilon)


@advantage_estimators("maxrl")
def maxrl(rewards: Tensor, group: Tensor, valid: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """(r − mean) / (mean + ε) within the group; for rewards ≥ 0 (pass or fail). Source: MaxRL (Tajwar et al. 2026).

    Raises ValueError for a negative reward: dividing by a mean near or below zero has no meaning.
    """
    g = _groups(rewards, group, valid)
    if bool((g.reward < 0).any()):
        raise ValueError("maxrl needs rewards >= 0")
    return _centred(g) / (g.mean + epsilon)


@advantage_estimators("gdpo")
def gdpo(
    components: Tensor, group: Tensor, valid: Tensor, *, weights: tuple[float, ...], epsilon: float = EPSILON
) -> Tensor:
    """Σ_k w_k · grpo(component k), whitened over the valid samples of the batch.

    components: [N, C] parts of the reward, instead of totals [N]; weights: C numbers. Normalising the total lets the
    part with the largest spread decide alone; here each part keeps its say. Source: GDPO (Liu et al. 2026).
    """
    if components.dim() != 2 or components.shape[1] != len(weights):
        raise ValueError(f"gdpo needs components [N, {len(weights)}], got {tuple(components.shape)}")
    parts = [w * grpo(components[:, i], group, valid, epsilon=epsilon) for i, w in enumerate(weights)]
    total = torch.stack(parts).sum(0)
    mean, std = _batch_std(total, valid, centre=True)
    return torch.where(valid, (total - mean) / (std + epsilon), 0.0)
