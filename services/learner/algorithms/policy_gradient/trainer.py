"""The policy-gradient step: from a batch with advantages to new weights and the numbers that describe what happened.

    log-probs before the step → normalisation weights → loss → forward, backward, optimizer step → diagnostics

The step is a pure function of the weights, the optimizer and the batch; nothing here waits for or talks to a service.
"""

import dataclasses

from torch import Tensor

from penstock.objectives import diagnostics, entropies, kl
from penstock.recipes import Recipe
from penstock.telemetry import steps
from services.learner.algorithms import live
from services.learner.algorithms.live import Live
from services.learner.algorithms.mini_batches import Taken, in_mini_batches, steps_of
from services.learner.algorithms.policy_gradient.loss import Objectives, PolicyGradientLoss
from services.learner.interface.batch import Batch
from services.learner.interface.policy import Policy
from services.learner.interface.step_result import StepResult, described


class PolicyGradientTrainer:
    """Raises UnknownChoice or ValueError for a recipe whose loss names nothing."""

    def __init__(self, recipe: Recipe, policy: Policy, live: Live) -> None:
        """live: which samples of a batch with advantages can change the weights; the others are only scored."""
        self._live = live
        self._objectives = Objectives.of(recipe)
        self._loss, self._temperature, self._policy = recipe.algorithm.loss, recipe.sampling.temperature, policy

    def step(self, batch: Batch) -> StepResult:
        """Trains on one batch (the same on every rank); a collective.

        With `proximal: recompute` and one optimizer step per batch no extra forward pass is made: the proximal policy
        is the one being trained at that moment, so its log-probs are the detached current ones, the same numbers.
        """
        batch.expect("advantage")
        reference = self._reference(batch)
        if reference is not None and self._objectives.kl_in_reward:
            batch = self._penalised(batch, reference)
        before, entropy = self._before(batch)
        whole, batch = batch, self._agreed(batch, before)
        counts = self._counts(batch, entropy)
        proximal = self._proximal(batch, before)
        correction = self._correction(batch, proximal)

        def loss_of(part: Batch, where: Tensor, weights: Tensor) -> PolicyGradientLoss:
            given = (proximal, reference, correction, counts)
            known = (None if values is None else values[where] for values in given)
            return PolicyGradientLoss(self._objectives, part, weights, *known)

        cut, weights = self._loss.mini_batches, self._objectives.weights
        taken = in_mini_batches(self._policy, batch, cut, weights, loss_of, self._temperature, self._live)
        # Of the whole batch at one time, where that is known: later mini-batches were scored after updates.
        current = taken.current if before is None else before
        metrics = self._metrics(whole, current, reference, taken)
        metrics[steps.TOKENS_DEAD], metrics[steps.GROUPS_DEAD] = live.said(batch, self._live(batch))
        if self._loss.mismatch_limit is not None:
            metrics["mismatched_share"] = 1.0 - float(batch.mask.sum() / whole.mask.sum().clamp(min=1))
        return StepResult(metrics)

    def _before(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """The learner's log-probs and entropies before the step, where they must be known before the loss; one forward
        pass."""
        if self._loss.top_entropy is not None:
            return self._policy.logprobs_and_entropies(batch, self._temperature)
        several = steps_of(batch, self._loss.mini_batches) > 1 or self._objectives.corrects_whole_batches
        if self._loss.mismatch_limit is None and not (several and self._loss.proximal == "recompute"):
            return None, None
        return self._policy.logprobs(batch, self._temperature), None

    def _counts(self, batch: Batch, entropy: Tensor | None) -> Tensor | None:
        """[T]: which tokens' policy loss counts, where not all do."""
        if self._loss.top_entropy is None or entropy is None:
            return None
        return entropies.undecided(entropy, batch.mask, self._loss.top_entropy)

    def _agreed(self, batch: Batch, before: Tensor | None) -> Batch:
        """The batch without the samples that engine and learner disagree on by more than the limit; they stay in their
        groups' baselines, and are not counted where the loss is normalised."""
        limit = self._loss.mismatch_limit
        if limit is None or before is None:
            return batch
        answer, answers = batch.answer_of_token, len(batch.group_of_answer)
        error = diagnostics.sequence_mismatch(before, batch.behaviour, batch.mask, answer, answers)
        return dataclasses.replace(batch, mask=batch.mask * (error <= limit)[answer])

    def _proximal(self, batch: Batch, before: Tensor | None) -> Tensor | None:
        if self._loss.proximal == "interpolate":
            return None
        return batch.behaviour if self._loss.proximal == "behaviour" else before

    def _reference(self, batch: Batch) -> Tensor | None:
        if not self._loss.kl.coefficient:
            return None
        return self._policy.reference_logprobs(batch, self._temperature)

    def _penalised(self, batch: Batch, reference: Tensor) -> Batch:
        """The batch with the KL to the reference taken off its rewards."""
        answer = batch.answer_of_token
        change = kl.kl_in_reward(
            batch.behaviour, reference, batch.mask, answer, batch.group_of_answer, self._loss.kl.coefficient
        ).to(batch.signal.dtype)
        return dataclasses.replace(batch, signal=(batch.signal + change[answer]) * batch.mask)

    def _correction(self, batch: Batch, proximal: Tensor | None) -> Tensor | None:
        if not self._objectives.corrects_whole_batches or proximal is None:
            return None
        return self._objectives.whole_correction(batch, proximal)

    def _metrics(self, batch: Batch, current: Tensor, reference: Tensor | None, taken: Taken) -> dict[str, float]:
        sums = taken.sums()
        metrics = described(self._policy, taken.outcomes, taken.loss)
        metrics["kl"] = self._kl(batch, reference, sums)
        metrics |= diagnostics.shares(sums)
        metrics |= diagnostics.mismatch(current, batch.behaviour, batch.mask)
        return metrics

    def _kl(self, batch: Batch, reference: Tensor | None, sums: dict[str, float]) -> float:
        """Mean KL to the reference per token: the loss's term, or what the reward was charged for."""
        if reference is not None and self._objectives.kl_in_reward:
            return float(((batch.behaviour - reference) * batch.mask).sum() / batch.mask.sum().clamp(min=1))
        return sums["kl"] / max(sums["tokens"], 1.0)
