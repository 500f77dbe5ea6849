"""Clipped importance-ratio loss of PPO, as used by GRPO and DAPO."""

import torch

from penstock.objectives.inputs import LOG_RATIO_LIMIT, LossInputs, TokenLoss
from penstock.objectives.registry import policy_losses


def clipped_surrogate(
    log_ratio: torch.Tensor, advantage: torch.Tensor, clip_low: float, clip_high: float, dual_clip: float | None
) -> TokenLoss:
    """−min(ρA, clip(ρ, 1−clip_low, 1+clip_high)·A) for ρ = exp(log_ratio), bounded by −A·dual_clip where A < 0.

    log_ratio is clamped to ±20, so that a wild token gives a large number rather than inf or NaN.
    The minimum of the objective is the maximum of its negative; `clipped` marks tokens whose gradient is zero because a
    bound was active.
    """
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    plain = -ratio * advantage
    bounded = -ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantage
    loss = torch.maximum(plain, bounded)
    clipped = bounded > plain
    if dual_clip is not None:
        ceiling = -advantage * dual_clip
        hit = (advantage < 0) & (loss > ceiling)
        loss, clipped = torch.where(hit, ceiling, loss), clipped | hit
    return TokenLoss(loss, clipped.detach())


@policy_losses("ppo_clip")
def ppo_clip(
    inputs: LossInputs, *, clip_low: float = 0.2, clip_high: float = 0.28, dual_clip: float | None = None
) -> TokenLoss:
    """ℓ = −min(ρA, clip(ρ, 1−εl, 1+εh)A), ρ = exp(current − proximal); with dual clip, for A < 0, ℓ ≤ −A·d.

    Source: PPO (Schulman et al. 2017, eq. 7); asymmetric bounds: DAPO (Yu et al. 2025, eq. 10); dual clip: Ye et al.
    2020, eq. 5, usual d = 3. Defaults: εl 0.2, εh 0.28, dual clip off. Raises ValueError for dual_clip ≤ 1.
    """
    if dual_clip is not None and dual_clip <= 1.0:
        raise ValueError(f"dual_clip must be greater than 1, got {dual_clip}")
    log_ratio = inputs.current - inputs.proximal
    return clipped_surrogate(log_ratio, inputs.advantage, clip_low, clip_high, dual_clip)
