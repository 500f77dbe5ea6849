"""GMPO: the geometric mean of a sequence's token ratios, each of which is clipped by itself."""

import torch

from penstock.objectives.inputs import LOG_RATIO_LIMIT, LossInputs, TokenLoss, sequence_mean
from penstock.objectives.registry import policy_losses


@policy_losses("geo_mean")
def geo_mean(inputs: LossInputs, *, clip_low: float = 0.4, clip_high: float = 0.4) -> TokenLoss:
    """ℓ = −A·s, s = exp(mean over the sequence of m_t), m_t = c − p, at most clip_high where A > 0 and at least
    −clip_low where A < 0. Both bounds are of the *logarithm* of the ratio.

    As gspo, but a wild token is clipped alone, and takes nothing from the gradient of the others. Written by tokens, as
    gspo is: ρ_t = sg(s)·exp(m_t − sg(m_t)), so that a token's weight can drop that very token. Source: Geometric-Mean
    Policy Optimization (Zhao et al. 2025), eq. 4; with `sequence` normalisation, its default, it is the paper's.
    Defaults 0.4, 0.4.
    """
    log_ratio = (inputs.current - inputs.proximal).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    bounded = log_ratio.clamp(-clip_low, clip_high)
    kept = torch.where(inputs.advantage >= 0, torch.minimum(log_ratio, bounded), torch.maximum(log_ratio, bounded))
    own = kept - kept.detach()
    ratio = (sequence_mean(kept.detach(), inputs)[inputs.sequence] + own).exp()
    return TokenLoss(-ratio * inputs.advantage, (kept != log_ratio).detach())
