"""SAPO: a smooth gate on the ratio in place of a clip."""

import torch

from penstock.objectives.inputs import LOG_RATIO_LIMIT, LossInputs, TokenLoss
from penstock.objectives.registry import policy_losses


@policy_losses("sapo")
def sapo(inputs: LossInputs, *, tau_positive: float = 1.0, tau_negative: float = 1.05) -> TokenLoss:
    """ℓ = −A·(4/τ)·σ(τ(ρ − 1)), ρ = exp(current − proximal), τ by the sign of A.

    At ρ = 1 the gradient is that of the ratio itself; it fades smoothly on both sides, faster for larger τ. Source:
    Soft Adaptive Policy Optimization (Gao et al. 2025). Defaults: τ+ 1.0, τ− 1.05. `clipped` marks tokens whose
    gradient is less than half of what it would be without the gate.
    """
    ratio = (inputs.current - inputs.proximal).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    tau = torch.where(inputs.advantage > 0, tau_positive, tau_negative)
    gate = torch.sigmoid(tau * (ratio - 1.0))
    slope = 4.0 * gate * (1.0 - gate)
    return TokenLoss(-inputs.advantage * (4.0 / tau) * gate, (slope < 0.5).detach())
