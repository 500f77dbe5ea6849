"""IcePop: the ratio of a token, or of a whole sequence, or nothing where it is out of bounds."""

import torch
from torch import Tensor

from penstock.objectives.corrections.ratios import answer_ratio, ratio, within
from penstock.objectives.inputs import LossInputs
from penstock.objectives.registry import off_policy_corrections


@off_policy_corrections("icepop")
def icepop(inputs: LossInputs, *, low: float = 0.5, high: float = 5.0) -> Tensor:
    """w = exp(p − g) if it lies in [low, high], else 0 (the token is dropped).

    Source: IcePop (Ling team 2025). Defaults [0.5, 5].
    """
    weight = ratio(inputs)
    return torch.where(within(weight, low, high), weight, torch.zeros_like(weight))


@off_policy_corrections("icepop_sequence")
def icepop_sequence(inputs: LossInputs, *, low: float = 0.0, high: float = 3.0) -> Tensor:
    """w = exp(Σ_t p − g) if it lies in [low, high], else 0; Σ over a sequence's trained tokens, all of which have it.

    A product over many tokens is soon out of bounds: for long answers see mis_sequence. Source: Liu et al. 2025, "When
    speed kills stability"; TRL's `sequence_mask`, whose bounds are the defaults: low 0 (none), high 3.
    """
    weight = answer_ratio(inputs)
    return torch.where(within(weight, low, high), weight, torch.zeros_like(weight))
