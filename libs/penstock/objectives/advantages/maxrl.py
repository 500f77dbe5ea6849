"""MaxRL: centred within the group, divided by the group's mean reward."""

from torch import Tensor

from penstock.objectives.advantages.groups import EPSILON, by_group, centred
from penstock.objectives.registry import advantage_estimators


@advantage_estimators("maxrl")
def maxrl(rewards: Tensor, group: Tensor, valid: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """(r − mean) / (mean + ε) within the group; for rewards ≥ 0 (pass or fail). Source: MaxRL (Tajwar et al. 2026).

    Raises ValueError for a negative reward: dividing by a mean near or below zero has no meaning.
    """
    g = by_group(rewards, group, valid)
    if bool((g.reward < 0).any()):
        raise ValueError("maxrl needs rewards >= 0")
    return centred(g) / (g.mean + epsilon)
