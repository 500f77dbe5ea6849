"""What an algorithm is: two halves, and what the batch between them carries.

    groups of a step ─ SampleMaker (rank 0) ─► Batch, its `signal` of one kind ─ Trainer (every rank) ─► new weights

The halves run at two times on different ranks and know nothing of each other; the kind of the signal is all they agree
on, and a trainer refuses a batch of another kind. What a recipe must know of an algorithm (checks, whether a reference
or a critic is needed) is in `penstock.recipes`, which needs no torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from penstock.recipes import Recipe
from services.learner.algorithms.live import Live, all_of_them
from services.learner.interface.batch import Batch, Signal, TrainingSample
from services.learner.interface.group import CompleteGroup
from services.learner.interface.policy import Policy
from services.learner.interface.step_result import StepResult


class SampleMaker(Protocol):
    """From groups to samples, on rank 0. Asked twice, because two things happen at two times: a group is judged when it
    arrives (its slot must be given back at once), and samples are made when the whole batch is known."""

    def filter_reason(self, rewards: Tensor) -> str | None:
        """Why a group (rewards [G] of its usable members) must not be trained, or None."""
        ...

    def samples(self, groups: Sequence[CompleteGroup]) -> list[TrainingSample]:
        """The training samples of a batch's groups, in their order."""
        ...


class Trainer(Protocol):
    """From a batch to new weights."""

    def step(self, batch: Batch) -> StepResult:
        """Trains on one batch (the same on every rank); a collective. Raises InvalidBatch for a signal of another
        kind."""
        ...


@runtime_checkable
class MeasuringTrainer(Trainer, Protocol):
    """A trainer of rows: held-out ones can be measured without a rollout."""

    def measure(self, batch: Batch) -> dict[str, float]:
        """What `step` would say of a batch (`loss`, and for pairs `accuracy` and `margin`), training nothing; a
        collective."""
        ...


@dataclass(frozen=True)
class Algorithm:
    """One way to learn.

    Attributes:
      signal: what the samples carry, and the only thing that the trainer takes.
      samples: the first half. Raises UnknownChoice or ValueError for settings that name nothing or contradict.
      trainer: the second half, of recipe, policy, critic (None where the recipe has none) and what is live. Raises
        likewise.
      live: which samples of a batch can change the weights; a loss that says nothing of it is computed in full.
    """

    signal: Signal
    samples: Callable[[Recipe], SampleMaker]
    trainer: Callable[[Recipe, Policy, Policy | None, Live], Trainer]
    live: Callable[[Recipe], Live] = all_of_them
