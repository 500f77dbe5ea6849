"""A clipped importance-ratio objective, of any ratio: PPO's takes a token's, GSPO's a sequence's."""

import torch

from penstock.objectives.inputs import LOG_RATIO_LIMIT, TokenLoss


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
