"""Centred within the group, one scale for the batch: the default under staleness."""

from torch import Tensor

from penstock.objectives.advantages.groups import EPSILON, batch_std, by_group, centred
from penstock.objectives.registry import advantage_estimators


@advantage_estimators("batch_norm")
def batch_norm(rewards: Tensor, group: Tensor, valid: Tensor, *, raw: bool = False, epsilon: float = EPSILON) -> Tensor:
    """Group mean removed, divided by the batch's root mean square of what is left: the default under staleness.

    One scale for the batch: an easy group with one odd reward is not blown up as it is by its own deviation. Trivial
    groups stay 0 and do not shift the others. `raw` divides by the deviation of the rewards themselves instead, in
    which differences between groups count too (TRL's `scale_rewards: batch`). Source: Magistral (Mistral 2025, section
    2.1).
    """
    g = by_group(rewards, group, valid)
    left = centred(g)
    _, std = batch_std(g.reward, valid, centre=True) if raw else batch_std(left, g.live, centre=False)
    return left / (std + epsilon)
