"""AOT: margins are compared in order of size, as distributions, not pair by pair."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


def _ordered(upper: Tensor, lower: Tensor, beta: float, label_smoothing: float) -> Tensor:
    logits = beta * (upper.sort().values - lower.sort().values)
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


@preference_losses("aot")
def aot(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """ℓ_k = −log σ(β(m_(k) − m⁰_(k))), m = c_w − c_l under the policy, m⁰ = r_w − r_l, each sorted over the batch.

    The policy's margins are to be larger than the reference's as a distribution (first-order dominance). ε as in
    conservative DPO. Source: AOT (Melnyk et al. 2024), paired.
    """
    return _ordered(
        pairs.chosen - pairs.rejected, pairs.chosen_reference - pairs.rejected_reference, beta, label_smoothing
    )


@preference_losses("aot_unpaired")
def aot_unpaired(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """ℓ_k = −log σ(β(δ_w,(k) − δ_l,(k))), δ = c − r of an answer, chosen and rejected each sorted over the batch.

    Chosen answers need not be better than their own pair's rejected ones. Source: AOT (Melnyk et al. 2024), unpaired.
    """
    return _ordered(pairs.chosen_gain, pairs.rejected_gain, beta, label_smoothing)
