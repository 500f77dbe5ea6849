"""VESPO: a sequence's whole importance ratio, reshaped so that neither end of it blows up.

It takes the ratio against the *behaviour* policy itself, so it belongs with `correction: none`; a weight would correct
twice.
"""

import torch

from penstock.objectives.inputs import LOG_RATIO_LIMIT, LossInputs, TokenLoss, sequence_sum
from penstock.objectives.registry import policy_losses


@policy_losses("vespo")
def vespo(
    inputs: LossInputs,
    *,
    power_positive: float = 2.0,
    decay_positive: float = 3.0,
    power_negative: float = 3.0,
    decay_negative: float = 2.0,
) -> TokenLoss:
    """ℓ = −sg(φ(W))·A·current, φ(W) = W^k·e^(λ(1 − W)), W = exp(Σ_t c − g) over a sequence's trained tokens.

    φ(1) = 1, its peak is at k / λ, and it falls to 0 at both ends, so that little is learnt from an answer which the
    policy has left, or which has become far likelier. k (`power_*`) and λ (`decay_*`) are chosen by the sign of A, 0
    being positive. Source: VESPO (2026), algorithm 1. Defaults: k 2 and λ 3 where A ≥ 0, k 3 and λ 2 elsewhere.
    `clipped` marks tokens of which less than half counts.
    """
    log_ratio = sequence_sum((inputs.current - inputs.behaviour).detach(), inputs)
    log_ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)[inputs.sequence]
    positive = inputs.advantage >= 0
    power = torch.where(positive, power_positive, power_negative)
    decay = torch.where(positive, decay_positive, decay_negative)
    weight = (power * log_ratio + decay * (1.0 - log_ratio.exp())).exp()
    return TokenLoss(-weight * inputs.advantage * inputs.current, weight < 0.5)
