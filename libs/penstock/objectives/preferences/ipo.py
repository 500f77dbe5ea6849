"""IPO: a pair's margin is regressed to a constant."""

from torch import Tensor

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


@preference_losses("ipo")
def ipo(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ℓ = (Δ̄ − 1/(2β))², Δ̄ over means of tokens: the margin is regressed to a constant, not pushed for ever.

    Source: IPO (Azar et al. 2023, eq. 17); means of tokens as its authors recommended later.
    """
    return (pairs.average_delta - 1 / (2 * beta)).square()
