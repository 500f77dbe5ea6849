"""From the recipe to the function that the policy minimises: objectives by name, applied to a micro-batch.

Everything that needs the whole batch (normalisation weights, proximal and reference log-probs) is computed before and
kept as flat arrays; a micro-batch picks its tokens by index. So the sum over micro-batches and ranks is the loss of the
batch, however it was cut.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from penstock.objectives import LossInputs, TokenLoss, corrections, diagnostics, kl, kl_estimators, proximal
from penstock.recipes import Recipe
from penstock.recipes.sections import Loss
from services.learner.algorithms import resolve
from services.learner.interface.batch import Batch
from services.learner.interface.policy import TokenScores

_ADDITIVE = ("tokens", "clipped", "dropped", "weight", "weight_square")


@dataclass(frozen=True)
class Objectives:
    """The functions that the recipe's loss names. Raises UnknownChoice or ValueError when made of names or parameters
    that are wrong."""

    loss: Loss
    policy_loss: Callable[[LossInputs], TokenLoss]
    correction: Callable[[LossInputs], Tensor]
    weights: Callable[[Batch], Tensor]

    @staticmethod
    def of(recipe: Recipe) -> "Objectives":
        loss = recipe.algorithm.loss
        made = Objectives(loss, resolve.policy_loss(loss), resolve.correction(loss), resolve.weights(recipe))
        if made.kl_in_loss:
            kl_estimators.get(loss.kl.estimator)
        if loss.proximal == "interpolate" and made.corrects_whole_batches:
            raise ValueError(f"loss.proximal interpolate: {loss.correction} needs the whole batch; use recompute")
        if recipe.sampling.temperature <= 0:
            raise ValueError(f"sampling.temperature must be positive, got {recipe.sampling.temperature}")
        return made

    @property
    def kl_in_loss(self) -> bool:
        """Whether the loss has a KL term."""
        return self.loss.kl.coefficient > 0 and self.loss.kl.place == "loss"

    @property
    def kl_in_reward(self) -> bool:
        """Whether the reward is charged for the KL."""
        return self.loss.kl.coefficient > 0 and self.loss.kl.place == "reward"

    @property
    def corrects_whole_batches(self) -> bool:
        """Whether the correction must see all tokens of the batch at once (and so needs `proximal` before)."""
        return self.loss.correction in corrections.WHOLE_BATCH or self.loss.correction_mean_one != "none"

    def whole_correction(self, batch: Batch, proximal: Tensor) -> Tensor:
        """fp32 [T]: the correction over the whole batch, given all proximal log-probs."""
        unknown = torch.zeros_like(proximal)
        sequence = batch.sequence_of_token
        inputs = LossInputs(unknown, proximal, batch.behaviour, batch.signal, batch.mask, sequence, batch.sequences)
        return self.correction(inputs)


class PolicyGradientLoss:
    """Σ weight · (correction · policy loss + β · KL − coefficient · entropy).

    proximal_logprobs [T]: at the start of the step, or None if no forward pass was made for them: the weights being
    trained *are* those (the first optimizer step on a batch), so the detached current log-probs are the same numbers;
    or they are interpolated.
    correction [T]: weights that were taken over the whole batch, or None to take them here.
    counts [T]: 1 for tokens whose policy loss counts, or None for all.
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
        counts: Tensor | None = None,
    ) -> None:
        self._objectives, self._batch, self._weights = objectives, batch, weights
        self._proximal, self._reference, self._correction = proximal_logprobs, reference, correction
        self._counts = counts

    def __call__(self, scored: TokenScores) -> tuple[Tensor, Tensor]:
        objectives, at = self._objectives, scored.index
        current = scored.current
        inputs = LossInputs(
            current=current,
            proximal=self._proximal_of(current, at),
            behaviour=self._batch.behaviour[at],
            advantage=self._batch.signal[at],
            mask=torch.ones_like(current),
            sequence=scored.sequence,
            sequences=scored.sequences,
            reference=None if self._reference is None else self._reference[at],
        )
        values, clipped = objectives.policy_loss(inputs)
        correction = objectives.correction(inputs) if self._correction is None else self._correction[at]
        if self._counts is not None:
            correction = correction * self._counts[at]
        token_loss = correction * values
        penalty = torch.zeros_like(current)
        if objectives.kl_in_loss:
            pull = objectives.loss.kl
            penalty = kl.kl_loss(
                inputs,
                pull.estimator,
                pull.importance,
                log_ratio_limit=pull.log_ratio_limit,
                value_limit=pull.value_limit,
            )
            token_loss = token_loss + pull.coefficient * penalty
        if objectives.loss.entropy_coefficient:
            token_loss = token_loss - objectives.loss.entropy_coefficient * scored.entropy
        sums: dict[str, Any] = diagnostics.additive(inputs, correction, clipped)
        stats = [sums[name] for name in _ADDITIVE] + [scored.entropy.detach().sum(), penalty.detach().sum()]
        return (self._weights[at] * token_loss).sum(), torch.stack([s.to(torch.float64) for s in stats])

    def _proximal_of(self, current: Tensor, at: Tensor) -> Tensor:
        if self._proximal is not None:
            return self._proximal[at]
        if self._objectives.loss.proximal == "interpolate":
            return proximal.interpolated(current, self._batch.behaviour[at], self._batch.age[at])
        return current.detach()
