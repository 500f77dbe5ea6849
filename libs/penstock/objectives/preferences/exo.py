"""EXO: the divergence of the policy's own preference from the data's, the other way round than in DPO."""

import math

from torch import Tensor
from torch.nn.functional import logsigmoid

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


@preference_losses("exo")
def exo(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 1e-3) -> Tensor:
    """ℓ = KL(q ‖ p) of two answers: σ(βΔ)(log σ(βΔ) − log(1−ε)) + σ(−βΔ)(log σ(−βΔ) − log ε).

    q is the policy's preference, p = (1−ε, ε) the data's; DPO is KL(p ‖ q). Source: EXO (Ji et al. 2024, eq. 16).
    Defaults β 0.1, ε 1e-3. Raises ValueError unless 0 < ε < 1.
    """
    if not 0 < label_smoothing < 1:
        raise ValueError(f"exo needs 0 < label_smoothing < 1, got {label_smoothing}")
    logits = beta * pairs.delta
    better, worse = logsigmoid(logits), logsigmoid(-logits)
    return better.exp() * (better - math.log1p(-label_smoothing)) + worse.exp() * (worse - math.log(label_smoothing))
