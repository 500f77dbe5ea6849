"""Plain policy gradient: no ratio, no trust region."""

import torch

from penstock.objectives.inputs import LossInputs, TokenLoss
from penstock.objectives.registry import policy_losses


@policy_losses("reinforce")
def reinforce(inputs: LossInputs) -> TokenLoss:
    """ℓ = −A·current.

    Source: Williams 1992. Off-policy data enters only through the correction weight, so an asynchronous run needs one.
    """
    return TokenLoss(-inputs.advantage * inputs.current, torch.zeros_like(inputs.mask, dtype=torch.bool))
