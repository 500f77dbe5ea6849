"""DPO on means of tokens instead of sums, so that length is no merit."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


@preference_losses("length_normalised")
def length_normalised(pairs: Pairs, *, beta: float = 5.0) -> Tensor:
    """ℓ = −log σ(βΔ̄): DPO on means of tokens. Source: Tülu 3 (Lambert et al. 2024, eq. 6). Default β 5, as there."""
    return -logsigmoid(beta * pairs.average_delta)
