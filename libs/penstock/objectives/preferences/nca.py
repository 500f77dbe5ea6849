"""NCA: each answer by itself, so that the chosen one does not become rarer."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


@preference_losses("nca")
def nca(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ℓ = −log σ(βδ_w) − ½ log σ(−βδ_w) − ½ log σ(−βδ_l), δ = c − r of an answer.

    Source: NCA (Chen et al. 2024), for pairs.
    """
    chosen, rejected = beta * pairs.chosen_gain, beta * pairs.rejected_gain
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)
