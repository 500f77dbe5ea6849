"""REINFORCE++: centred within the group, whitened over the batch."""

import torch
from torch import Tensor

from penstock.objectives.advantages.groups import EPSILON, batch_std, by_group, centred
from penstock.objectives.registry import advantage_estimators


@advantage_estimators("reinforce_pp")
def reinforce_pp(rewards: Tensor, group: Tensor, valid: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """Group mean removed, then whitened (mean and std) over the valid samples of the batch.

    Source: REINFORCE++-baseline (Hu et al. 2025). Members of trivial groups keep 0 before whitening.
    """
    g = by_group(rewards, group, valid)
    left = centred(g)
    mean, std = batch_std(left, valid, centre=True)
    return torch.where(valid, (left - mean) / (std + epsilon), 0.0)
