"""The hinge loss of a pair's margin, as in SLiC-HF."""

from torch import Tensor
from torch.nn.functional import relu

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


@preference_losses("hinge")
def hinge(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ℓ = max(0, 1 − βΔ). Source: SLiC-HF (Zhao et al. 2023) in the form of RSO (Liu et al. 2023, eq. 11)."""
    return relu(1 - beta * pairs.delta)
