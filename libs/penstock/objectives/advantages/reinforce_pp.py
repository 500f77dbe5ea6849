"""REINFORCE++: whitened over the batch, with or without a baseline of the group."""

import torch
from torch import Tensor

from penstock.objectives.advantages import groups
from penstock.objectives.advantages.groups import EPSILON, batch_std, by_group, centred
from penstock.objectives.registry import advantage_estimators


@advantage_estimators("reinforce_pp")
def reinforce_pp(
    rewards: Tensor,
    group: Tensor,
    valid: Tensor,
    lengths: Tensor,
    *,
    baseline: bool = True,
    over_tokens: bool = False,
    epsilon: float = EPSILON,
) -> Tensor:
    """Group mean removed, then whitened (mean and std) over the valid samples of the batch.

    `over_tokens` whitens over the batch's tokens, as the paper does: a sample counts as often as it has trained tokens
    (lengths [N]). `baseline: false` leaves the group mean where it is: the first form, for one answer a prompt. Source:
    REINFORCE++ and REINFORCE++-baseline (Hu et al. 2025). Members of trivial groups keep 0 before whitening.
    """
    g = by_group(rewards, group, valid)
    left = centred(g) if baseline else g.reward
    mean, std = groups.over_tokens(left, valid, lengths) if over_tokens else batch_std(left, valid, centre=True)
    return torch.where(valid, (left - mean) / (std + epsilon), 0.0)
