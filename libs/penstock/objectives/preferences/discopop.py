"""DiscoPOP: between the logistic and the exponential loss, by how large the margin is."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


@preference_losses("discopop")
def discopop(pairs: Pairs, *, beta: float = 0.1, tau: float = 0.05) -> Tensor:
    """ℓ = (1 − σ(βΔ/τ)) · (−log σ(βΔ)) + σ(βΔ/τ) · e^(−βΔ). Source: DiscoPOP (Lu et al. 2024, eq. 5). Default τ .05."""
    logits = beta * pairs.delta
    share = torch.sigmoid(logits / tau)
    return (1 - share) * -logsigmoid(logits) + share * torch.exp(-logits)
