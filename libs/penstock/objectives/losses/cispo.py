"""CISPO: the importance weight is capped, the gradient of no token is dropped."""

from penstock.objectives.inputs import LossInputs, TokenLoss
from penstock.objectives.registry import policy_losses


@policy_losses("cispo")
def cispo(inputs: LossInputs, *, cap: float = 5.0) -> TokenLoss:
    """ℓ = −sg(min(ρ, cap))·A·current, ρ = exp(current − proximal).

    Source: MiniMax-M1 (2025), eq. 4–5. `cap` bounds the ratio itself; systems that ask for ε_high mean a cap
    of 1 + ε_high. Default: cap 5.
    """
    ratio = (inputs.current.detach() - inputs.proximal).exp()
    return TokenLoss(-ratio.clamp(max=cap) * inputs.advantage * inputs.current, ratio > cap)
