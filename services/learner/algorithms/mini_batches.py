"""A batch cut into optimizer steps: whole groups, in order. What every trainer that sums over tokens does alike."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from services.learner.interface.batch import Batch
from services.learner.interface.policy import Loss, Policy, StepOutcome


@dataclass(frozen=True)
class Taken:
    """Attributes:
    outcomes: of each optimizer step. current: fp32 [T], log-probs under the weights right before a token's own step.
    """

    outcomes: list[StepOutcome]
    current: Tensor

    def sums(self) -> dict[str, float]:
        """The loss's statistics over all steps."""
        return {name: sum(o.sums[name] for o in self.outcomes) for name in self.outcomes[0].sums}


def steps_of(batch: Batch, wanted: int) -> int:
    """How many optimizer steps the batch is cut into: no more than it has groups."""
    return min(wanted, len(torch.unique(batch.groups)))


def in_mini_batches(
    policy: Policy, batch: Batch, wanted: int, loss_of: Callable[[Batch, Tensor], Loss], temperature: float = 1.0
) -> Taken:
    """Takes the steps, of equally many groups each; a collective.

    loss_of: the loss of a part, given the part and its tokens' positions in the batch (int64).
    """
    parts = _parts(batch, steps_of(batch, wanted))
    outcomes = [policy.train_step(part, loss_of(part, where), temperature) for part, where in parts]
    current = torch.zeros_like(batch.behaviour)
    for (_, where), outcome in zip(parts, outcomes, strict=True):
        current[where] = outcome.current
    return Taken(outcomes, current)


def _parts(batch: Batch, steps: int) -> list[tuple[Batch, Tensor]]:
    """Each with its tokens' positions. One step takes the very batch, so that its packing is planned once."""
    if steps == 1:
        return [(batch, torch.arange(len(batch.tokens), device=batch.tokens.device))]
    groups = batch.group_of_sequence
    turn = groups * steps // (int(groups.max()) + 1)
    return [batch.select(torch.nonzero(turn == i)[:, 0]) for i in range(steps)]
