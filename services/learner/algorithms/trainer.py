"""The training step: from a batch with advantages to new weights and the numbers that describe what happened.

    log-probs before the step → normalisation weights → loss → forward, backward, optimizer step → diagnostics

The step is a pure function of the weights, the optimizer and the batch; nothing here waits for or talks to a service.
"""

import dataclasses
from typing import Protocol

import torch
from torch import Tensor

from penstock.objectives import diagnostics, kl
from services.learner.algorithms.critic_trainer import CriticTrainer
from services.learner.algorithms.losses import DistillationLoss, Objectives, PolicyGradientLoss, SupervisedLoss
from services.learner.algorithms.preference_trainer import PreferenceTrainer
from services.learner.algorithms.reward_model_trainer import RewardModelTrainer
from services.learner.interface.batch import Batch
from services.learner.interface.policy import Loss, Policy, StepOutcome
from services.learner.interface.settings import LossSettings
from services.learner.interface.step_result import StepResult, described


class Steps(Protocol):
    """What takes steps: a trainer of any family of methods."""

    def step(self, batch: Batch) -> StepResult:
        """Trains on one batch (the same on every rank); a collective."""
        ...

    def measure(self, batch: Batch) -> dict[str, float]:
        """What `step` would say of a batch of rows (`loss`, and for pairs `accuracy` and `margin`), training nothing; a
        collective."""
        ...


def make_trainer(settings: LossSettings, policy: Policy, critic: Policy | None = None) -> Steps:
    """The trainer of the settings' algorithm. critic: needed where the settings have one."""
    if settings.critic is not None:
        if critic is None:
            raise ValueError("loss.critic: there is no critic to train")
        return CriticTrainer(settings, critic, Trainer(settings, policy))
    match settings.algorithm:
        case "dpo":
            return PreferenceTrainer(settings, policy)
        case "reward_model":
            return RewardModelTrainer(settings.reward_model, policy)
        case _:
            return Trainer(settings, policy)


class Trainer:
    """Policy-gradient and supervised steps. Raises UnknownChoice or ValueError for settings that name nothing."""

    def __init__(self, settings: LossSettings, policy: Policy) -> None:
        self.settings, self.policy = settings, policy
        self._objectives = Objectives.of(settings)
        self._is_policy_gradient = settings.algorithm == "grpo" and settings.divergence is None
        self._temperature = settings.temperature if self._is_policy_gradient else 1.0

    def step(self, batch: Batch) -> StepResult:
        """Trains on one batch (the same on every rank); a collective.

        With `proximal: recompute` and one optimizer step per batch no extra forward pass is made: the proximal policy
        is the one being trained at that moment, so its log-probs are the detached current ones, the same numbers.
        """
        reference = self._reference(batch)
        if reference is not None and self.settings.kl_place == "reward":
            batch = self._penalised(batch, reference)
        before = self._before(batch)
        whole, batch = batch, self._agreed(batch, before)
        parts = self._mini_batches(batch)
        proximal = self._proximal(batch, before)
        correction = self._correction(batch, proximal)
        outcomes = []
        for part, where in parts:
            loss = self._loss(part, _at(proximal, where), _at(reference, where), _at(correction, where))
            outcomes.append(self.policy.train_step(part, loss, self._temperature))
        current = torch.zeros_like(batch.behaviour)
        for (_, where), outcome in zip(parts, outcomes, strict=True):
            current[where] = outcome.current
        if before is not None:
            current = before  # of the whole batch at one time: later mini-batches were scored after updates
        metrics = self._metrics(whole, current, reference, outcomes)
        if self.settings.mismatch_limit is not None:
            metrics["mismatched_share"] = 1.0 - float(batch.mask.sum() / whole.mask.sum().clamp(min=1))
        return StepResult(metrics)

    def measure(self, batch: Batch) -> dict[str, float]:
        """`loss`: the negative log-likelihood of held-out demonstrations, normalised as in training."""
        return {"loss": -float((self._objectives.weights(batch) * self.policy.logprobs(batch)).sum())}

    def _mini_batches(self, batch: Batch) -> list[tuple[Batch, Tensor]]:
        """Whole groups, in order, in equally many groups per optimizer step; (part, its tokens in the batch)."""
        groups = torch.unique(batch.groups, return_inverse=True)[1]
        steps = self._optimizer_steps(batch)
        turn = groups * steps // (int(groups.max()) + 1)
        return [batch.select(torch.nonzero(turn == i)[:, 0]) for i in range(steps)]

    def _optimizer_steps(self, batch: Batch) -> int:
        return min(self.settings.optimizer_steps_per_batch, len(torch.unique(batch.groups)))

    def _before(self, batch: Batch) -> Tensor | None:
        """The learner's log-probs before the step, where they must be known before the loss; a forward pass."""
        if not self._is_policy_gradient:
            return None
        several = self._optimizer_steps(batch) > 1 or self._objectives.corrects_whole_batches
        if self.settings.mismatch_limit is None and not (several and self.settings.proximal == "recompute"):
            return None
        return self.policy.logprobs(batch, self._temperature)

    def _agreed(self, batch: Batch, before: Tensor | None) -> Batch:
        """The batch without the samples that engine and learner disagree on by more than the limit; they stay in their
        groups' baselines, and are not counted where the loss is normalised."""
        limit = self.settings.mismatch_limit
        if limit is None or before is None:
            return batch
        sequence = batch.sequence_of_token
        error = diagnostics.sequence_mismatch(before, batch.behaviour, batch.mask, sequence, batch.sequences)
        return dataclasses.replace(batch, mask=batch.mask * (error <= limit)[sequence])

    def _proximal(self, batch: Batch, before: Tensor | None) -> Tensor | None:
        if not self._is_policy_gradient or self.settings.proximal == "interpolate":
            return None
        return batch.behaviour if self.settings.proximal == "behaviour" else before

    def _reference(self, batch: Batch) -> Tensor | None:
        if not self._is_policy_gradient or not self.settings.kl_coefficient:
            return None
        return self.policy.reference_logprobs(batch, self._temperature)

    def _penalised(self, batch: Batch, reference: Tensor) -> Batch:
        """The batch with the KL to the reference taken off its rewards."""
        group = torch.unique(batch.groups, return_inverse=True)[1]
        sequence = batch.sequence_of_token
        change = kl.kl_in_reward(
            batch.behaviour, reference, batch.mask, sequence, group, self.settings.kl_coefficient
        ).to(batch.advantage.dtype)
        return dataclasses.replace(batch, advantage=(batch.advantage + change[sequence]) * batch.mask)

    def _correction(self, batch: Batch, proximal: Tensor | None) -> Tensor | None:
        if not self._is_policy_gradient or not self._objectives.corrects_whole_batches or proximal is None:
            return None
        return self._objectives.whole_correction(batch, proximal)

    def _loss(self, part: Batch, proximal: Tensor | None, reference: Tensor | None, correction: Tensor | None) -> Loss:
        weights = self._objectives.weights(part)
        if self.settings.algorithm == "sft":
            return SupervisedLoss(weights)
        if self.settings.divergence is not None:
            return DistillationLoss(part, weights, self.settings.divergence)
        return PolicyGradientLoss(self._objectives, part, weights, proximal, reference, correction)

    def _kl(self, batch: Batch, reference: Tensor | None, sums: dict[str, float]) -> float:
        """Mean KL to the reference per token: the loss's term, or what the reward was charged for."""
        if reference is not None and self.settings.kl_place == "reward":
            return float(((batch.behaviour - reference) * batch.mask).sum() / batch.mask.sum().clamp(min=1))
        return sums["kl"] / max(sums["tokens"], 1.0)

    def _metrics(
        self, batch: Batch, current: Tensor, reference: Tensor | None, outcomes: list[StepOutcome]
    ) -> dict[str, float]:
        metrics = described(self.policy, outcomes, batch)
        if self.settings.divergence is not None:
            metrics["divergence"] = sum(o.sums["divergence"] for o in outcomes) / max(metrics["tokens"], 1.0)
        elif self.settings.algorithm == "grpo":
            sums = {name: sum(o.sums[name] for o in outcomes) for name in outcomes[0].sums}
            metrics["kl"] = self._kl(batch, reference, sums)
            metrics |= diagnostics.shares(sums)
            metrics |= diagnostics.mismatch(current, batch.behaviour, batch.mask)
        return metrics


def _at(values: Tensor | None, where: Tensor) -> Tensor | None:
    return None if values is None else values[where]
