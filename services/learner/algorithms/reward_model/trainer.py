"""The reward model's step: from ranked answers to new weights.

    scores of answers → loss per group → its gradient, a weight per answer → one step on Σ weight · score

As in the preference step, the loss depends on an answer only through one number, so its gradient is a weight per
answer, taken from a forward pass before the step, and answers are packed over micro-batches and ranks like any others.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from penstock.objectives.preferences import answer_weights
from penstock.objectives.preferences.ranking import RankedPairs, bradley_terry, ranked_pairs
from penstock.recipes import Recipe
from services.learner.algorithms.preference.trainer import LinearLoss, sequence_sums
from services.learner.interface.batch import Batch
from services.learner.interface.policy import Policy
from services.learner.interface.step_result import StepResult, described


class RewardModelTrainer:
    """Of a policy that scores."""

    def __init__(self, recipe: Recipe, policy: Policy) -> None:
        self._settings, self._policy = recipe.algorithm.reward_model, policy

    def step(self, batch: Batch) -> StepResult:
        """Trains on a batch of RankedAnswers (the same on every rank); a collective."""
        scores, pairs = self._scored(batch)
        values, weights = answer_weights(self._losses(pairs), scores)
        token_weights = weights.to(torch.float32)[batch.sequence_of_token]
        outcome = self._policy.train_step(batch, LinearLoss(token_weights))
        metrics = described(self._policy, [outcome], outcome.loss)
        metrics.pop("entropy")  # a score has none
        return StepResult(metrics | {"loss": float(values.mean())} | _order(scores, pairs))

    def measure(self, batch: Batch) -> dict[str, float]:
        """`loss`, `accuracy`, `margin`, `reward_mean` of a batch that is not trained on; a collective."""
        scores, pairs = self._scored(batch)
        return {"loss": float(self._losses(pairs)(scores).mean())} | _order(scores, pairs)

    def _scored(self, batch: Batch) -> tuple[Tensor, RankedPairs]:
        """float64 [N], and the pairs that the data's scores make of the answers."""
        batch.expect("score")
        scores = sequence_sums(batch, self._policy.scores(batch))
        pairs = ranked_pairs(sequence_sums(batch, batch.signal), batch.groups, self._settings.min_margin)
        return scores, pairs

    def _losses(self, pairs: RankedPairs) -> Callable[[Tensor], Tensor]:
        settings = self._settings
        return lambda scores: bradley_terry(scores, pairs, margin=settings.margin, centring=settings.centring)


def _order(scores: Tensor, pairs: RankedPairs) -> dict[str, float]:
    """Whether the better answer has the larger score (equal ones count half), and by how much."""
    difference = scores[pairs.better] - scores[pairs.worse]
    return {
        "accuracy": float((0.5 + 0.5 * torch.sign(difference)).mean()),
        "margin": float(difference.mean()),
        "reward_mean": float(scores.mean()),
    }
