"""DRO: a squared pull towards the *behaviour* policy itself.

It uses the engine's log-probs directly, so it belongs with `correction: none`; a weight would correct twice.
"""

import torch

from penstock.objectives.inputs import LOG_RATIO_LIMIT, LossInputs, TokenLoss
from penstock.objectives.registry import policy_losses


@policy_losses("dro")
def dro(inputs: LossInputs, *, beta: float) -> TokenLoss:
    """ℓ = −(A·c − ½β(c−g)²): a squared pull towards the behaviour policy; `beta` has no default.

    Source: Direct Reward Optimisation (Richemond et al. 2024), per token.
    """
    gap = (inputs.current - inputs.behaviour).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    loss = -(inputs.advantage * inputs.current - 0.5 * beta * gap.square())
    return TokenLoss(loss, torch.zeros_like(inputs.mask, dtype=torch.bool))
