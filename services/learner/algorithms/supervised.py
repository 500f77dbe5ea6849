"""Supervised training: every demonstration is trained on as it is, by its negative log-likelihood."""

from collections.abc import Sequence

import torch
from torch import Tensor

from penstock.objectives import LossInputs, negative_log_likelihood
from penstock.recipes import Recipe
from services.learner.algorithms import resolve
from services.learner.algorithms.mini_batches import in_mini_batches
from services.learner.algorithms.samples import sample
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.interface.group import CompleteGroup
from services.learner.interface.policy import Policy, TokenScores
from services.learner.interface.step_result import StepResult, described


class Demonstrations:
    """The SampleMaker of demonstrations."""

    def filter_reason(self, rewards: Tensor) -> str | None:
        """None: there is nothing to judge."""
        return None

    def samples(self, groups: Sequence[CompleteGroup]) -> list[TrainingSample]:
        return [sample(m.trajectory, i) for i, g in enumerate(groups) for m in g.usable]


class SupervisedTrainer:
    """The Trainer. The temperature of sampling has no part in it."""

    def __init__(self, recipe: Recipe, policy: Policy) -> None:
        self._policy, self._weights = policy, resolve.weights(recipe)
        self._mini_batches = recipe.algorithm.loss.mini_batches

    def step(self, batch: Batch) -> StepResult:
        """Trains on one batch (the same on every rank); a collective."""
        batch.expect("none")
        taken = in_mini_batches(
            self._policy, batch, self._mini_batches, self._weights, lambda _, __, weights: SupervisedLoss(weights)
        )
        return StepResult(described(self._policy, taken.outcomes, taken.loss))

    def measure(self, batch: Batch) -> dict[str, float]:
        """`loss`: the negative log-likelihood of held-out demonstrations, normalised as in training."""
        return {"loss": -float((self._weights(batch) * self._policy.logprobs(batch)).sum())}


class SupervisedLoss:
    """Σ weight · −log-prob."""

    names = ("tokens", "entropy")

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights

    def __call__(self, scored: TokenScores) -> tuple[Tensor, Tensor]:
        ones = torch.ones_like(scored.current)
        zeros = torch.zeros_like(ones)
        inputs = LossInputs(scored.current, zeros, zeros, zeros, ones, scored.sequence, scored.sequences)
        loss = (negative_log_likelihood(inputs) * self._weights[scored.index]).sum()
        return loss, torch.stack([ones.sum(), scored.entropy.detach().sum()]).to(torch.float64)
