"""GDPO: every part of the reward standardised by itself, so that none drowns the others."""

import torch
from torch import Tensor

from penstock.objectives.advantages.groups import EPSILON, batch_std
from penstock.objectives.advantages.grpo import grpo
from penstock.objectives.registry import advantage_estimators


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
    mean, std = batch_std(total, valid, centre=True)
    return torch.where(valid, (total - mean) / (std + epsilon), 0.0)
