"""RLOO: each reward against the mean of the others of its group."""

from torch import Tensor

from penstock.objectives.advantages.groups import EPSILON, by_group, centred
from penstock.objectives.registry import advantage_estimators


@advantage_estimators("rloo")
def rloo(rewards: Tensor, group: Tensor, valid: Tensor, *, normalise: bool = False, epsilon: float = EPSILON) -> Tensor:
    """r − mean of the *other* valid members = (r − mean)·n/(n−1). Source: Ahmadian et al. 2024.

    `normalise` divides by the standard deviation of the whole group, never by that of the others: for rewards
    0, .98, .98, … the others' deviation is rounding noise and the quotient would be 1e16.
    """
    g = by_group(rewards, group, valid)
    advantage = centred(g) * g.count / (g.count - 1).clamp(min=1)
    return advantage / (g.std + epsilon) if normalise else advantage
