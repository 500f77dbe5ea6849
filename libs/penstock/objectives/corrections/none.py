"""No correction: what was sampled counts as if the present policy had drawn it."""

import torch
from torch import Tensor

from penstock.objectives.inputs import LossInputs
from penstock.objectives.registry import off_policy_corrections


@off_policy_corrections("none")
def none(inputs: LossInputs) -> Tensor:
    """w = 1."""
    return torch.ones_like(inputs.mask)
