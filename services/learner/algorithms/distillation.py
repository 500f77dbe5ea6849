"""On-policy distillation: every drawn token's advantage is how much likelier the teacher finds it than the policy did.

A_t = log teacher(token_t) − log policy(token_t), both at the token that the policy drew: the sampled-token form of the
gradient of KL(policy ‖ teacher). It takes the place of rewards and baselines; losses, corrections and staleness are
those of any policy gradient. Source: GKD (Agarwal et al. 2023) with student samples; "On-policy distillation" (Thinking
Machines 2025).

Where the teacher named its likeliest tokens, these travel with the sample and the loss is the divergence itself.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.objectives import distillation
from penstock.recipes import Recipe
from penstock.trajectories import from_float32s, from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms import resolve
from services.learner.algorithms.live import Live
from services.learner.algorithms.method import Trainer
from services.learner.algorithms.mini_batches import in_mini_batches
from services.learner.algorithms.policy_gradient.trainer import PolicyGradientTrainer
from services.learner.algorithms.samples import sample
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.interface.group import CompleteGroup
from services.learner.interface.policy import Policy, TokenScores
from services.learner.interface.step_result import StepResult, described


class JudgedSamples:
    """The SampleMaker of `algorithm.advantage: opd`: `advantage_clip` bounds a token's advantage, and `teacher.top` is
    how many tokens the teacher was asked to name at every position."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.teacher is not None
        self._clip, self._top = recipe.algorithm.advantage_clip, recipe.teacher.top

    def filter_reason(self, rewards: Tensor) -> str | None:
        """None: the teacher has a word on every sample, whatever its reward."""
        return None

    def samples(self, groups: Sequence[CompleteGroup]) -> list[TrainingSample]:
        """The usable members with advantages per token. Raises ValueError for one that no teacher judged."""
        made = []
        for i, group in enumerate(groups):
            for t in (m.trajectory for m in group.usable):
                if not t.teacher_logprobs or t.teacher_top != self._top:
                    wanted = f"a teacher that names {self._top} tokens" if self._top else "a teacher"
                    raise ValueError(f"{t.group}/{t.index} was not judged by {wanted}")
                advantage = from_float32s(t.teacher_logprobs) - from_float32s(t.logprobs)
                if self._clip is not None:
                    advantage = np.clip(advantage, -self._clip, self._clip)
                made.append(dataclasses.replace(sample(t, i, advantage), alternatives=self._alternatives(t)))
        return made

    def _alternatives(self, t: pb.Trajectory) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        if not self._top:
            return None
        shape = (t.token_count, self._top)
        return from_int32s(t.teacher_top_tokens).reshape(shape), from_float32s(t.teacher_top_logprobs).reshape(shape)


def distillation_trainer(recipe: Recipe, policy: Policy, live: Live) -> Trainer:
    """Of the drawn tokens' advantages, or of the divergence where the teacher named tokens: it reaches all."""
    assert recipe.teacher is not None
    return DivergenceTrainer(recipe, policy) if recipe.teacher.top else PolicyGradientTrainer(recipe, policy, live)


class DivergenceTrainer:
    """The Trainer where the teacher named tokens: the divergence, and nothing of a policy gradient."""

    def __init__(self, recipe: Recipe, policy: Policy) -> None:
        assert recipe.teacher is not None
        self._policy, self._weights, self._kind = policy, resolve.weights(recipe), recipe.teacher.divergence
        self._mini_batches = recipe.algorithm.loss.mini_batches

    def step(self, batch: Batch) -> StepResult:
        """Trains on one batch (the same on every rank); a collective."""
        batch.expect("advantage")
        taken = in_mini_batches(self._policy, batch, self._mini_batches, self._weights, self._loss)
        metrics = described(self._policy, taken.outcomes, taken.loss)
        metrics["divergence"] = taken.sums()["divergence"] / max(metrics["tokens"], 1.0)
        return StepResult(metrics)

    def _loss(self, part: Batch, where: Tensor, weights: Tensor) -> "DistillationLoss":
        return DistillationLoss(part, weights, self._kind)


class DistillationLoss:
    """Σ weight · divergence from the teacher over its likeliest tokens (the batch's alternatives)."""

    names = ("tokens", "entropy", "divergence")

    def __init__(self, batch: Batch, weights: Tensor, kind: distillation.Kind) -> None:
        self._batch, self._weights, self._kind = batch, weights, kind

    def __call__(self, scored: TokenScores) -> tuple[Tensor, Tensor]:
        teacher = self._batch.alternative_logprobs[scored.index]
        values = distillation.top_divergence(scored.alternatives, teacher, self._kind)
        stats = [torch.ones_like(values).sum(), scored.entropy.detach().sum(), values.detach().sum()]
        return (self._weights[scored.index] * values).sum(), torch.stack([s.to(torch.float64) for s in stats])
