"""Weights that make a sum of local losses equal to the loss of the global batch.

A loss is Σ wₜ·ℓₜ over all tokens of all micro-batches and ranks. The weights are computed once from the mask of the
*whole* batch (which every rank has), so splitting it in any way cannot change the result: no mean of means, no division
by a local count that may be zero.
"""

from torch import Tensor

from penstock.objectives.registry import normalisations


def _count(index: Tensor, size: int, values: Tensor) -> Tensor:
    return values.new_zeros(size).index_add(0, index, values)


@normalisations("token")
def token(mask: Tensor, sequence: Tensor, group: Tensor) -> Tensor:
    """w = M / number of trained tokens (DAPO: every token counts the same, long answers weigh more).

    All normalisations: mask [T] (1.0 trained, 0.0 not), sequence [T] and group [T] int64 ids ≥ 0 -> weights [T] in the
    mask's dtype; all zeros if nothing is trained. A sample that has branches is one sequence here: all of its tokens.
    """
    return mask / mask.sum().clamp(min=1.0)


@normalisations("sequence")
def sequence(mask: Tensor, sequence: Tensor, group: Tensor) -> Tensor:
    """Mean over tokens within a sequence first, then over the sequences with a trained token (GRPO as published)."""
    per_sequence = _count(sequence, int(sequence.max()) + 1, mask)
    return mask / per_sequence.clamp(min=1.0)[sequence] / (per_sequence > 0).sum().clamp(min=1)


@normalisations("prompt")
def prompt(mask: Tensor, sequence: Tensor, group: Tensor) -> Tensor:
    """Mean over the tokens of a group first, then over the groups that have a trained token."""
    per_group = _count(group, int(group.max()) + 1, mask)
    return mask / per_group.clamp(min=1.0)[group] / (per_group > 0).sum().clamp(min=1)


@normalisations("constant")
def constant(mask: Tensor, sequence: Tensor, group: Tensor, *, max_tokens: int) -> Tensor:
    """w = M / (sequences with a trained token × max_tokens).

    Source: Dr. GRPO (Liu et al. 2025): dividing by a length that does not depend on the answer removes the bias towards
    short right and long wrong answers. `max_tokens` is the generation limit. Raises ValueError if it is not positive.
    """
    if max_tokens <= 0:
        raise ValueError(f"max_tokens must be positive, got {max_tokens}")
    per_sequence = _count(sequence, int(sequence.max()) + 1, mask)
    return mask / ((per_sequence > 0).sum().clamp(min=1) * max_tokens)
