"""Supervised loss: negative log-likelihood of the trained tokens."""

from torch import Tensor

from penstock.objectives.inputs import LossInputs


def negative_log_likelihood(inputs: LossInputs) -> Tensor:
    """ℓ = −current [T]; which tokens count is the mask's business, how they are averaged the normalisation's."""
    return -inputs.current
