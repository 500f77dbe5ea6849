"""OPO: rewards against the baseline of least variance, in which a long answer counts for more."""

import torch
from torch import Tensor

from penstock.objectives.advantages.groups import by_group
from penstock.objectives.registry import advantage_estimators


@advantage_estimators("opo")
def opo(rewards: Tensor, group: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
    """r − Σ l·r / Σ l within the group, l the answers' numbers of trained tokens; no division.

    The baseline that makes the gradient's variance least, if the square of an answer's gradient grows with its length.
    lengths: [N]. Source: OPO (Hao et al. 2025, eq. 8). For on-policy training; equal lengths give dr_grpo.
    """
    g = by_group(rewards, group, valid)
    index = torch.unique(group, return_inverse=True)[1]
    weight = torch.where(valid, lengths.to(torch.float64), 0.0)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(len(values)).index_add(0, index, values)[index]

    baseline = total(weight * g.reward) / total(weight).clamp(min=1.0)
    return torch.where(g.live, g.reward - baseline, 0.0)
