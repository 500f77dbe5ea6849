"""Statistics of rewards within groups, which all estimators are made of.

Whether a group's rewards are all equal is tested on the rewards: the standard deviation of equal but inexact floats is
a tiny number, not zero, and dividing by it explodes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-6


@dataclass(frozen=True)
class Groups:
    """Per-group statistics of the valid rewards, spread back on samples: all [N] float64."""

    reward: Tensor
    valid: Tensor
    count: Tensor
    mean: Tensor
    std: Tensor
    live: Tensor  # valid, and the group's valid rewards are not all equal


def by_group(rewards: Tensor, group: Tensor, valid: Tensor) -> Groups:
    """The statistics of [N] rewards. Raises ValueError for other shapes and for a valid reward that is not finite."""
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
    return Groups(reward, valid, count, mean, std, valid & (count > 1) & ~trivial)


def centred(g: Groups) -> Tensor:
    """r − the group's mean [N]; 0 where there is nothing to learn."""
    return torch.where(g.live, g.reward - g.mean, 0.0)


def over_tokens(values: Tensor, valid: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """As batch_std with the mean, where each sample stands there once for each of its tokens."""
    weight = torch.where(valid, lengths, 0).to(torch.float64)
    count = weight.sum()
    mean = (weight * values).sum() / count.clamp(min=1)
    square = (weight * (values - mean).square()).sum()
    return mean, (square / (count - 1).clamp(min=1)).sqrt()


def batch_std(values: Tensor, valid: Tensor, centre: bool) -> tuple[Tensor, Tensor]:
    """(mean, unbiased standard deviation) over valid samples; mean 0 where not asked for."""
    votes = values[valid]
    mean = votes.mean() if centre and len(votes) else values.new_zeros(())
    return mean, ((votes - mean).square().sum() / max(len(votes) - 1, 1)).sqrt()
