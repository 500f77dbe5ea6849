"""What a backward pass leaves, and the optimizer step that follows it, in the words that every trainer reads."""

from typing import Protocol

import torch
from torch import Tensor

from services.learner.backends.packing.micro_batches import Planned
from services.learner.interface.policy import Loss, StepOutcome, TokenScores
from services.learner.interface.rate import Rate


class SteppingOptimizer(Protocol):
    """What a backend's optimizer has in common."""

    rate: Rate

    @property
    def learning_rate(self) -> float: ...

    @property
    def steps(self) -> int: ...

    @property
    def skipped(self) -> int: ...

    def zero_grad(self) -> None: ...

    def step(self) -> tuple[bool, float]:
        """(whether the step was taken, the gradient's norm before clipping)."""
        ...


class ScoreOnly:
    """No loss: forward passes that only want log-probabilities."""

    names: tuple[str, ...] = ()

    def __call__(self, scored: TokenScores) -> tuple[Tensor, Tensor]:
        return scored.current.new_zeros(()), scored.current.new_zeros(0, dtype=torch.float64)


def stepped(
    optimizer: SteppingOptimizer,
    loss: Loss,
    scored: tuple[Tensor, Tensor],
    planned: Planned,
) -> StepOutcome:
    """Takes the step that follows a backward pass over what was planned, which gave (log-probs [T], [loss,
    *statistics])."""
    current, sums = scored
    rate = optimizer.learning_rate
    taken, norm = optimizer.step()
    total, *stats = sums.tolist()
    return StepOutcome(
        loss=total,
        sums=dict(zip(loss.names, stats, strict=True)),
        current=current,
        gradient_norm=norm,
        learning_rate=rate,
        taken=taken,
        micro_batches=len(planned.parts),
        packing=planned.described,
        given=planned.given,
        computed=planned.computed,
    )
