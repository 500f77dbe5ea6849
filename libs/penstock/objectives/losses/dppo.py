"""DPPO: the trust region is how far a probability has moved from the *behaviour* policy itself.

It uses the engine's log-probs directly, so it belongs with `correction: none`; a weight would correct twice.
"""

import torch

from penstock.objectives.inputs import LOG_RATIO_LIMIT, LossInputs, TokenLoss
from penstock.objectives.registry import policy_losses


@policy_losses("dppo")
def dppo(inputs: LossInputs, *, delta: float = 0.2, tau: float = 1e-3) -> TokenLoss:
    """ℓ = −A·exp(c−g) + τ(c−g)², the first term dropped where the *probability* has already moved by δ the way the
    advantage pushes: A > 0 and π−μ > δ, or A ≤ 0 and π−μ < −δ.

    A rare token may change its ratio much without changing the policy, so probabilities, not ratios, are bounded.
    Source: DPPO (2026), in its binary total-variation form. Defaults δ 0.2, τ 1e-3.
    """
    gap = (inputs.current - inputs.behaviour).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    moved = (inputs.current.exp() - inputs.behaviour.exp()).detach()
    dropped = torch.where(inputs.advantage > 0, moved > delta, moved < -delta)
    surrogate = torch.where(dropped, 0.0, -inputs.advantage * gap.exp())
    return TokenLoss(surrogate + tau * gap.square(), dropped)
