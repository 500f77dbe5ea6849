"""Importance ratios of tokens and of sequences, and bounds on them."""

from torch import Tensor

from penstock.objectives.inputs import LOG_RATIO_LIMIT, LossInputs, sequence_mean, sequence_sum


def ratio(inputs: LossInputs) -> Tensor:
    """exp(p − g) [T], without gradient."""
    return (inputs.proximal - inputs.behaviour).detach().exp()


def sequence_ratio(inputs: LossInputs) -> Tensor:
    """exp(mean of p − g over the sequence's trained tokens), on every token of the sequence."""
    mean = sequence_mean((inputs.proximal - inputs.behaviour).detach(), inputs)
    return mean.exp()[inputs.sequence]


def answer_ratio(inputs: LossInputs) -> Tensor:
    """exp(sum of p − g over the sequence's trained tokens), on every token of the sequence."""
    total = sequence_sum((inputs.proximal - inputs.behaviour).detach(), inputs)
    return total.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()[inputs.sequence]


def within(ratios: Tensor, low: float, high: float) -> Tensor:
    """Which ratios lie in [low, high]. Raises ValueError for bounds that hold nothing."""
    if not 0 <= low < high:
        raise ValueError(f"need 0 <= low < high, got low={low}, high={high}")
    return (ratios >= low) & (ratios <= high)
