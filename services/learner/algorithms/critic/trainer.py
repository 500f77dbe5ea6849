"""PPO's step: values of the batch, advantages from them, one step of the critic and one of the policy.

    values (critic) → GAE → advantages, whitened over the batch ─► policy's step, as for any policy gradient
                         └► returns ────────────────────────────► critic's step, on the clipped squared error

The critic is a second policy-like object on the same ranks: a model that scores, whose score of trained token t is the
value of what stands before t. It learns from the same batches, stale ones too: a return is what an older policy got, so
values lag behind by the staleness. During the first steps it learns alone (`warmup_steps`): advantages from a critic
that knows nothing only move the policy about.
"""

import dataclasses

import torch
from torch import Tensor

from penstock.objectives import critics
from penstock.recipes import Recipe
from services.learner.algorithms import resolve
from services.learner.algorithms.live import Live
from services.learner.algorithms.policy_gradient.trainer import PolicyGradientTrainer
from services.learner.interface.batch import Batch
from services.learner.interface.policy import Policy, StepOutcome, TokenScores
from services.learner.interface.step_result import StepResult


class CriticTrainer:
    """A step of the critic, then one of the policy, which finds advantages in the batch where rewards were."""

    def __init__(self, recipe: Recipe, policy: Policy, critic: Policy | None, live: Live) -> None:
        """live: for the policy's step; the critic learns from every sample.

        Raises ValueError without a critic, and as PolicyGradientTrainer.
        """
        if critic is None:
            raise ValueError("algorithm.critic: there is no critic to train")
        self._settings, self._critic = recipe.algorithm.critic, critic
        self._policy_steps, self._weights = PolicyGradientTrainer(recipe, policy, live), resolve.weights(recipe)

    def step(self, batch: Batch) -> StepResult:
        """Trains on a batch of CriticSamples (the same on every rank); a collective."""
        batch.expect("reward")
        warming_up = self._critic.optimizer.steps < self._settings.warmup_steps  # counted over restarts
        values = self._critic.scores(batch)
        found = critics.gae(
            values,
            batch.signal,
            batch.mask,
            batch.sequence_of_token,
            batch.sequences,
            discount=self._settings.discount,
            decay=self._settings.decay,
        )
        loss = ValueLoss(self._weights(batch), values, found.returns, self._settings.clip or None)
        said = self._metrics(batch, values, found.returns, self._critic.train_step(batch, loss))
        if warming_up:
            return StepResult({"loss": said["value_loss"], "tokens": float(batch.mask.sum()), **said})
        advantages = found.advantages
        if self._settings.whiten:
            advantages = critics.whitened(advantages, batch.mask)
        result = self._policy_steps.step(dataclasses.replace(batch, signal=advantages, kind="advantage"))
        return StepResult(result.metrics | said)

    def _metrics(self, batch: Batch, values: Tensor, returns: Tensor, outcome: StepOutcome) -> dict[str, float]:
        trained = batch.mask > 0
        return {
            "value_loss": outcome.loss,
            "value_grad_norm": outcome.gradient_norm,
            "value_learning_rate": outcome.learning_rate,
            "value_mean": float(values[trained].mean()) if bool(trained.any()) else 0.0,
            "value_explained": critics.explained_variance(values[trained], returns[trained]),
            "value_clip_share": outcome.sums["clipped"] / max(outcome.sums["tokens"], 1.0),
            "value_skipped_steps": float(self._critic.optimizer.skipped),
        }


class ValueLoss:
    """Σ weight · clipped squared error of the values; all arrays [T]."""

    names = ("tokens", "clipped")

    def __init__(self, weights: Tensor, before: Tensor, returns: Tensor, clip: float | None) -> None:
        self._weights, self._before, self._returns, self._clip = weights, before, returns, clip

    def __call__(self, scored: TokenScores) -> tuple[Tensor, Tensor]:
        at = scored.index
        losses, clipped = critics.value_loss(scored.current, self._before[at], self._returns[at], clip=self._clip)
        sums = torch.stack([torch.ones_like(losses).sum(), clipped.sum().to(losses)])
        return (self._weights[at] * losses).sum(), sums.detach().to(torch.float64)
