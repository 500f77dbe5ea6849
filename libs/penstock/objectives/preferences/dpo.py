"""DPO, conservative DPO and robust DPO: the logistic loss of a pair's margin."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


@preference_losses("sigmoid")
def sigmoid(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """ℓ = −(1−ε) log σ(βΔ) − ε log σ(−βΔ).

    Source: DPO (Rafailov et al. 2023, eq. 7); with ε > 0 conservative DPO (Mitchell 2023). Defaults β 0.1, ε 0.
    """
    logits = beta * pairs.delta
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


@preference_losses("robust")
def robust(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """ℓ = (−(1−ε) log σ(βΔ) + ε log σ(−βΔ)) / (1 − 2ε): unbiased if a share ε of labels is flipped.

    Source: Robust DPO (Chowdhury et al. 2024, eq. 12).
    """
    logits = beta * pairs.delta
    loss = -(1 - label_smoothing) * logsigmoid(logits) + label_smoothing * logsigmoid(-logits)
    return loss / (1 - 2 * label_smoothing)
