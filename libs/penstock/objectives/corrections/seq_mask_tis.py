"""Sequences kept or dropped as in mis_sequence, tokens of those kept weighted as in tis."""

from torch import Tensor

from penstock.objectives.corrections.mis import mis_sequence
from penstock.objectives.corrections.tis import tis
from penstock.objectives.inputs import LossInputs
from penstock.objectives.registry import off_policy_corrections


@off_policy_corrections("seq_mask_tis")
def seq_mask_tis(inputs: LossInputs, *, low: float = 0.5, high: float = 2.0, cap: float = 2.0) -> Tensor:
    """Sequences gated as in mis_sequence, tokens of kept sequences weighted as in tis. Defaults [0.5, 2], cap 2."""
    return mis_sequence(inputs, low=low, high=high) * tis(inputs, cap=cap)
