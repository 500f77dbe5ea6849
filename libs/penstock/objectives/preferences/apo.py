"""APO: which way the likelihoods of the two answers go is said, not only their difference."""

import torch
from torch import Tensor

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


@preference_losses("apo_zero")
def apo_zero(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ℓ = 1 − σ(βδ_w) + σ(βδ_l), δ = c − r of an answer: the chosen one likelier, the rejected one rarer.

    For chosen answers better than the policy's own. Source: APO (D'Oosterlinck et al. 2024, eq. 7).
    """
    return 1 - torch.sigmoid(beta * pairs.chosen_gain) + torch.sigmoid(beta * pairs.rejected_gain)


@preference_losses("apo_down")
def apo_down(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ℓ = σ(βδ_w) + 1 − σ(β(δ_w − δ_l)), δ = c − r of an answer: both rarer, the rejected one more.

    For chosen answers worse than the policy's own. Source: APO (D'Oosterlinck et al. 2024, eq. 8).
    """
    chosen, rejected = pairs.chosen_gain, pairs.rejected_gain
    return torch.sigmoid(beta * chosen) + 1 - torch.sigmoid(beta * (chosen - rejected))
