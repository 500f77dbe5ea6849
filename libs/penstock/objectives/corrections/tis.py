"""Truncated importance sampling: the ratio of a token, or of a whole sequence, within bounds."""

from torch import Tensor

from penstock.objectives.corrections.ratios import answer_ratio, ratio
from penstock.objectives.inputs import LossInputs
from penstock.objectives.registry import off_policy_corrections


@off_policy_corrections("tis")
def tis(inputs: LossInputs, *, cap: float = 2.0) -> Tensor:
    """Truncated importance sampling: w = min(exp(p − g), cap).

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training". Default cap 2.
    """
    return ratio(inputs).clamp(max=cap)


@off_policy_corrections("tis_sequence")
def tis_sequence(inputs: LossInputs, *, low: float = 0.0, cap: float = 2.0) -> Tensor:
    """w = min(max(exp(Σ_t p − g), low), cap), Σ over a sequence's trained tokens: all of them have the answer's weight.

    The importance weight of the whole answer, unbiased up to its bounds, where a token's leaves out what led to it; in
    long answers it is at its bounds most of the time. Source: as tis, by sequences; verl's and TRL's sequence level.
    Defaults low 0 (none), cap 2. Raises ValueError unless 0 ≤ low < cap.
    """
    if not 0 <= low < cap:
        raise ValueError(f"need 0 <= low < cap, got low={low}, cap={cap}")
    return answer_ratio(inputs).clamp(low, cap)
