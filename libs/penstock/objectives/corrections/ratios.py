"""Importance ratios of tokens and of sequences, and bounds on them."""

from torch import Tensor

from penstock.objectives.inputs import LossInputs, sequence_mean


def ratio(inputs: LossInputs) -> Tensor:
    return (inputs.proximal - inputs.behaviour).detach().exp()


def sequence_ratio(inputs: LossInputs) -> Tensor:
    """exp(mean of p − g over the sequence's trained tokens), on every token of the sequence."""
    mean = sequence_mean((inputs.proximal - inputs.behaviour).detach(), inputs)
    return mean.exp()[inputs.sequence]


def within(ratio: Tensor, low: float, high: float) -> Tensor:
    if not 0 <= low < high:
        raise ValueError(f"need 0 <= low < high, got low={low}, high={high}")
    return (ratio >= low) & (ratio <= high)
