"""IcePop: a token's ratio, or nothing where it is out of bounds."""

import torch
from torch import Tensor

from penstock.objectives.corrections.ratios import ratio, within
from penstock.objectives.inputs import LossInputs
from penstock.objectives.registry import off_policy_corrections


@off_policy_corrections("icepop")
def icepop(inputs: LossInputs, *, low: float = 0.5, high: float = 5.0) -> Tensor:
    """w = exp(p − g) if it lies in [low, high], else 0 (the token is dropped).

    Source: IcePop (Ling team 2025). Defaults [0.5, 5].
    """
    weight = ratio(inputs)
    return torch.where(within(weight, low, high), weight, torch.zeros_like(weight))
