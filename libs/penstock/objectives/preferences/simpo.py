"""SimPO: means of tokens, a target margin, no reference."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


@preference_losses("simpo")
def simpo(pairs: Pairs, *, beta: float = 2.0, margin: float = 0.5) -> Tensor:
    """ℓ = −log σ(β(c̄_w − c̄_l) − γ), c̄ means of tokens; no reference. Source: SimPO (Meng et al. 2024, eq. 6)."""
    average = pairs.chosen / pairs.chosen_length - pairs.rejected / pairs.rejected_length
    return -logsigmoid(beta * average - margin)
