"""CISPO: the importance weight is capped, the gradient of no token is dropped."""

from penstock.objectives.inputs import LossInputs, TokenLoss
from penstock.objectives.registry import policy_losses


@policy_losses("cispo")
def cispo(inputs: LossInputs, *, cap: float = 5.0, floor: float = 0.0) -> TokenLoss:
    """ℓ = −sg(min(max(ρ, floor), cap))·A·current, ρ = exp(current − proximal).

    Source: MiniMax-M1 (2025), eq. 4–5. `cap` and `floor` bound the ratio itself; systems that ask for ε_high and ε_low
    mean a cap of 1 + ε_high and a floor of 1 − ε_low. Defaults: cap 5, floor 0 (none), as in the paper's use. Raises
    ValueError unless 0 ≤ floor < cap.
    """
    if not 0 <= floor < cap:
        raise ValueError(f"need 0 <= floor < cap, got floor={floor}, cap={cap}")
    ratio = (inputs.current.detach() - inputs.proximal).exp()
    clipped = (ratio > cap) | (ratio < floor)
    return TokenLoss(-ratio.clamp(floor, cap) * inputs.advantage * inputs.current, clipped)
