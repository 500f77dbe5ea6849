"""Reward shaping and group filters: what happens to rewards around the advantage.

Order: scaling, stop properly, length shaping, advantages, filters, clip of advantages. A filter says which *groups* to
drop; the caller releases their slots.
"""

import torch
from torch import Tensor


def overlong_penalty(lengths: Tensor, max_length: int, buffer: int) -> Tensor:
    """DAPO's soft overlong punishment, to be added to the reward. lengths [N] in tokens -> [N] float64 in [−1, 0].

    0 up to max_length − buffer, then linear down to −1 at max_length, never below. Source: DAPO (Yu et al. 2025,
    eq. 13). Raises ValueError unless 0 < buffer ≤ max_length.
    """
    if not 0 < buffer <= max_length:
        raise ValueError(f"need 0 < buffer <= max_length, got buffer={buffer}, max_length={max_length}")
    excess = lengths.to(torch.float64) - (max_length - buffer)
    return -(excess / buffer).clamp(0.0, 1.0)


def stop_properly(rewards: Tensor, truncated: Tensor, factor: float) -> Tensor:
    """Rewards [N] with those of truncated [N] bool answers times `factor`, where they are positive.

    An answer that was cut off may be right by chance, and is worth less than one that came to its end. NeMo RL scales
    every reward (`stop_properly_penalty_coef`); a factor below 1 would there make a negative one *better*, so that an
    answer had better be cut off. Raises ValueError unless 0 ≤ factor ≤ 1.
    """
    if not 0 <= factor <= 1:
        raise ValueError(f"need 0 <= factor <= 1, got {factor}")
    return torch.where(truncated & (rewards > 0), rewards * factor, rewards)


def _group_statistic(values: Tensor, group: Tensor, valid: Tensor, fill: float, how: str) -> tuple[Tensor, Tensor]:
    ids, index = torch.unique(group, return_inverse=True)
    filled = torch.where(valid, values.to(torch.float64), fill)
    start = torch.full((len(ids),), fill, dtype=torch.float64)
    return ids, start.scatter_reduce(0, index, filled, how)


def zero_variance_groups(rewards: Tensor, group: Tensor, valid: Tensor) -> list[int]:
    """Ids of groups whose valid rewards are all equal (or that have none): nothing to learn (dynamic sampling).

    Source: DAPO (Yu et al. 2025, section 3.2). Compared for equality, not by a standard deviation.
    """
    ids, low = _group_statistic(rewards, group, valid, float("inf"), "amin")
    _, high = _group_statistic(rewards, group, valid, float("-inf"), "amax")
    return [int(i) for i in ids[low >= high]]


def pass_rate_groups_outside(rewards: Tensor, group: Tensor, valid: Tensor, low: float, high: float) -> list[int]:
    """Ids of groups whose mean valid reward lies outside [low, high] (both ends kept), or that have no valid member."""
    if low > high:
        raise ValueError(f"need low <= high, got {low} > {high}")
    ids, total = _group_statistic(rewards, group, valid, 0.0, "sum")
    _, count = _group_statistic(valid, group, valid, 0.0, "sum")
    rate = total / count.clamp(min=1)
    return [int(i) for i in ids[(count == 0) | (rate < low) | (rate > high)]]
