"""From settings to the function that the policy minimises: objectives by name, applied to a micro-batch.

Everything that needs the whole batch (normalisation weights, proximal and reference log-probs) is computed before and
kept as flat arrays; a micro-batch picks its tokens by index. So the sum over micro-batches and ranks is the loss of the
batch, however it was cut.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from penstock.objectives import (
    LossInputs,
    TokenLoss,
    corrections,
    diagnostics,
    kl,
    kl_estimators,
    negative_log_likelihood,
    normalisations,
    off_policy_corrections,
    policy_losses,
    proximal,
)
from penstock.objectives.losses import distillation
from services.learner.interface.batch import Batch
from services.learner.interface.policy import Scored
from services.learner.interface.settings import LossSettings

_ADDITIVE = ("tokens", "clipped", "dropped", "weight", "weight_square")


@dataclass(frozen=True)
class Objectives:
    """The functions that settings name. Raises UnknownChoice or ValueError when made from settings that are wrong."""

    settings: LossSettings
    policy_loss: Callable[[LossInputs], TokenLoss]
    correction: Callable[[LossInputs], Tensor]
    normalisation: Callable[..., Tensor]

    @staticmethod
    def of(settings: LossSettings) -> "Objectives":
        for name, value in (
            ("algorithm", ("grpo", "dpo", "sft")),
            ("proximal", ("recompute", "behaviour", "interpolate")),
        ):
            if getattr(settings, name) not in value:
                raise ValueError(f"loss.{name} {getattr(settings, name)!r} is unknown; valid: {', '.join(value)}")
        if settings.kl_in_loss:
            kl_estimators.get(settings.kl_estimator)
        if settings.proximal == "interpolate" and settings.correction in corrections.WHOLE_BATCH:
            raise ValueError(f"loss.proximal interpolate: {settings.correction} needs the whole batch; use recompute")
        if settings.temperature <= 0:
            raise ValueError(f"loss.temperature must be positive, got {settings.temperature}")
        if settings.optimizer_steps_per_batch < 1:
            raise ValueError(f"loss.optimizer_steps_per_batch must be >= 1, got {settings.optimizer_steps_per_batch}")
        correction, options = settings.correction, settings.correction_settings
        if settings.proximal == "behaviour":  # the ratio to the engine is the trust region's: w = 1
            correction, options = "none", {}
        return Objectives(
            settings,
            policy_losses.make(settings.policy_loss, **settings.policy_loss_settings),
            off_policy_corrections.make(correction, **options),
            normalisations.make(settings.normalisation, **settings.normalisation_settings),
        )

    @property
    def corrects_whole_batches(self) -> bool:
        """Whether the correction must see all tokens of the batch at once (and so needs `proximal` before)."""
        return self.settings.correction in corrections.WHOLE_BATCH and self.settings.proximal == "recompute"

    def whole_correction(self, batch: Batch, proximal: Tensor) -> Tensor:
        """fp32 [T]: the correction over the whole batch, given all proximal log-probs."""
        unknown = torch.zeros_like(proximal)
        sequence = batch.sequence_of_token
        inputs = LossInputs(unknown, proximal, batch.behaviour, batch.advantage, batch.mask, sequence, batch.sequences)
        return self.correction(inputs)

    def weights(self, batch: Batch) -> Tensor:
        """fp32 [T]: what each token's loss is multiplied by so that the batch's loss is a plain sum."""
        sequence = batch.sequence_of_token
        group = torch.unique(batch.groups, return_inverse=True)[1][sequence]
        return self.normalisation(batch.mask.to(torch.float64), sequence, group).to(torch.float32)


class SupervisedLoss:
    """Σ weight · −log-prob."""

    names = ("tokens", "entropy")

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights

    def __call__(self, scored: Scored) -> tuple[Tensor, Tensor]:
        ones = torch.ones_like(scored.current)
        zeros = torch.zeros_like(ones)
        inputs = LossInputs(scored.current, zeros, zeros, zeros, ones, scored.sequence, scored.sequences)
        loss = (negative_log_likelihood(inputs) * self._weights[scored.index]).sum()
        return loss, torch.stack([ones.sum(), scored.entropy.detach().sum()]).to(torch.float64)


class DistillationLoss:
    """Σ weight · divergence from the teacher over its likeliest tokens (the batch's alternatives)."""

    names = ("tokens", "entropy", "divergence")

    def __init__(self, batch: Batch, weights: Tensor, kind: distillation.Kind) -> None:
        self._batch, self._weights, self._kind = batch, weights, kind

    def __call__(self, scored: Scored) -> tuple[Tensor, Tensor]:
        teacher = self._batch.alternative_logprobs[scored.index]
        values = distillation.top_divergence(scored.alternatives, teacher, self._kind)
        stats = [torch.ones_like(values).sum(), scored.entropy.detach().sum(), values.detach().sum()]
        return (self._weights[scored.index] * values).sum(), torch.stack([s.to(torch.float64) for s in stats])


class PolicyGradientLoss:
    """Σ weight · (correction · policy loss + β · KL − coefficient · entropy).

    proximal_logprobs [T]: at the start of the step, or None if no forward pass was made for them: the weights being
    trained *are* those (the first optimizer step on a batch), so the detached current log-probs are the same numbers;
    or they are interpolated.
    correction [T]: weights that were taken over the whole batch, or None to take them here.
    """

    names = (*_ADDITIVE, "entropy", "kl")

    def __init__(
        self,
        objectives: Objectives,
        batch: Batch,
        weights: Tensor,
        proximal_logprobs: Tensor | None,
        reference: Tensor | None,
        correction: Tensor | None = None,
    ) -> None:
        self._objectives, self._batch, self._weights = objectives, batch, weights
        self._proximal, self._reference, self._correction = proximal_logprobs, reference, correction

    def __call__(self, scored: Scored) -> tuple[Tensor, Tensor]:
        settings, at = self._objectives.settings, scored.index
        current = scored.current
        inputs = LossInputs(
            current=current,
            proximal=self._proximal_of(current, at),
            behaviour=self._batch.behaviour[at],
            advantage=self._batch.advantage[at],
            mask=torch.ones_like(current),
            sequence=scored.sequence,
            sequences=scored.sequences,
            reference=None if self._reference is None else self._reference[at],
        )
        values, clipped = self._objectives.policy_loss(inputs)
        correction = self._objectives.correction(inputs) if self._correction is None else self._correction[at]
        token_loss = correction * values
        penalty = torch.zeros_like(current)
        if settings.kl_in_loss:
            penalty = kl.kl_loss(inputs, settings.kl_estimator, settings.kl_importance)
            token_loss = token_loss + settings.kl_coefficient * penalty
        if settings.entropy_coefficient:
            token_loss = token_loss - settings.entropy_coefficient * scored.entropy
        sums: dict[str, Any] = diagnostics.additive(inputs, correction, clipped)
        stats = [sums[name] for name in _ADDITIVE] + [scored.entropy.detach().sum(), penalty.detach().sum()]
        return (self._weights[at] * token_loss).sum(), torch.stack([s.to(torch.float64) for s in stats])

    def _proximal_of(self, current: Tensor, at: Tensor) -> Tensor:
        if self._proximal is not None:
            return self._proximal[at]
        if self._objectives.settings.proximal == "interpolate":
            return proximal.interpolated(current, self._batch.behaviour[at], self._batch.age[at])
        return current.detach()
