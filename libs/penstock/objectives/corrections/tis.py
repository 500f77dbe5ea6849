"""Truncated importance sampling: a token's ratio, at most a cap."""

from torch import Tensor

from penstock.objectives.corrections.ratios import ratio
from penstock.objectives.inputs import LossInputs
from penstock.objectives.registry import off_policy_corrections


@off_policy_corrections("tis")
def tis(inputs: LossInputs, *, cap: float = 2.0) -> Tensor:
    """Truncated importance sampling: w = min(exp(p − g), cap).

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training". Default cap 2.
    """
    return ratio(inputs).clamp(max=cap)
