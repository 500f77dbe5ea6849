"""A batch cut into optimizer steps: whole groups, in order. What every trainer that sums over tokens does alike."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from services.learner.algorithms.live import Live
from services.learner.interface.batch import Batch
from services.learner.interface.policy import Loss, Policy, StepOutcome


@dataclass(frozen=True)
class Taken:
    """Attributes:
    outcomes: of each optimizer step. loss: of the whole batch, as its normalisation defines it: cutting it changes the
    weights that a part is scored with, never how much it counts.
    current: fp32 [T], log-probs under the weights right before a token's own step.
    """

    outcomes: list[StepOutcome]
    loss: float
    current: Tensor

    def sums(self) -> dict[str, float]:
        """The loss's statistics over all steps."""
        return {name: sum(o.sums[name] for o in self.outcomes) for name in self.outcomes[0].sums}


def steps_of(batch: Batch, wanted: int) -> int:
    """How many optimizer steps the batch is cut into: no more than it has groups."""
    return min(wanted, len(torch.unique(batch.groups)))


def in_mini_batches(
    policy: Policy,
    batch: Batch,
    wanted: int,
    weights: Callable[[Batch], Tensor],
    loss_of: Callable[[Batch, Tensor, Tensor], Loss],
    temperature: float = 1.0,
    live: Live | None = None,
) -> Taken:
    """Takes the steps, of equally many groups each; a collective.

    weights: [T] of a batch, by which a token's loss counts in it. loss_of: the loss of a part, given the part, its
    tokens' positions in the batch (int64) and their weights in the part. live: which samples of a part are trained; all
    if None.
    """
    whole, outcomes, loss = weights(batch), [], 0.0
    current = torch.zeros_like(batch.behaviour)
    for part, where in _parts(batch, steps_of(batch, wanted)):
        own = weights(part)
        outcome = policy.train_step(part, loss_of(part, where, own), temperature, None if live is None else live(part))
        outcomes.append(outcome)
        current[where] = outcome.current
        loss += outcome.loss * _share(whole[where], own)
    return Taken(outcomes, loss, current)


def _share(whole: Tensor, own: Tensor) -> float:
    """How much of the batch's loss a part's is: by what its tokens weigh in either; 0 where nothing is trained."""
    total = float(own.sum(dtype=torch.float64))
    return float(whole.sum(dtype=torch.float64)) / total if total else 0.0


def _parts(batch: Batch, steps: int) -> list[tuple[Batch, Tensor]]:
    """Each with its tokens' positions. One step takes the very batch, so that its packing is planned once."""
    if steps == 1:
        return [(batch, torch.arange(len(batch.tokens), device=batch.tokens.device))]
    groups = batch.group_of_sequence
    turn = groups * steps // (int(groups.max()) + 1)
    return [batch.select(torch.nonzero(turn == i)[:, 0]) for i in range(steps)]
