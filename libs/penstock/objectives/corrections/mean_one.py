"""Weights of a whole batch made to have a mean of one: they say whom to learn from, not how much in all."""

from torch import Tensor

from penstock.objectives.inputs import LossInputs, sequence_mean


def mean_one(weight: Tensor, inputs: LossInputs, over: str) -> Tensor:
    """w / mean(w), over the batch's trained tokens (`tokens`), or over its answers, each by the mean of its own tokens
    (`answers`); as it is where all are 0.

    After the bounds, so that a cap stays a cap of ratios. Without it a batch that has become unlikely as a whole takes
    smaller steps. It compares tokens of the whole batch. Source: self-normalised importance sampling; verl's
    `rollout_is_batch_normalize`. Raises ValueError for another word.
    """
    if over == "tokens":
        mean = (weight * inputs.mask).sum() / inputs.mask.sum().clamp(min=1.0)
    elif over == "answers":
        means, counts = sequence_mean(weight, inputs), weight.new_zeros(inputs.sequences)
        trained = counts.index_add(0, inputs.sequence, inputs.mask) > 0
        mean = means.sum() / trained.sum().clamp(min=1)
    else:
        raise ValueError(f"unknown mean {over!r}; valid: tokens, answers")
    return weight if mean == 0 else weight / mean
