"""SPPO: each answer's reward is regressed to what winning or losing for sure is worth."""

from torch import Tensor

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


@preference_losses("sppo")
def sppo(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ℓ = (δ_w − 1/(2β))² + (δ_l + 1/(2β))², δ = c − r of an answer: SPPO with hard labels, β its 1/η.

    Source: SPPO (Wu et al. 2024, eq. 4.7, with probabilities 1 and 0).
    """
    return (pairs.chosen_gain - 0.5 / beta).square() + (pairs.rejected_gain + 0.5 / beta).square()
