"""Masked importance sampling: tokens, or whole sequences, are kept or dropped by their ratio."""

from torch import Tensor

from penstock.objectives.corrections.ratios import ratio, sequence_ratio, within
from penstock.objectives.inputs import LossInputs
from penstock.objectives.registry import off_policy_corrections


@off_policy_corrections("mis_token")
def mis_token(inputs: LossInputs, *, low: float = 0.5, high: float = 2.0) -> Tensor:
    """Masked importance sampling per token: w = 1 if exp(p − g) lies in [low, high], else 0.

    Source: Liu et al. 2025, "When speed kills stability". Defaults [0.5, 2].
    """
    return within(ratio(inputs), low, high).to(inputs.mask.dtype)


@off_policy_corrections("mis_sequence")
def mis_sequence(inputs: LossInputs, *, low: float = 0.5, high: float = 2.0) -> Tensor:
    """Masked importance sampling per sequence: all tokens kept (w = 1) if the geometric-mean ratio lies in [low, high].

    Source: as mis_token, with the geometric mean in place of the product. Defaults [0.5, 2].
    """
    return within(sequence_ratio(inputs), low, high).to(inputs.mask.dtype)
