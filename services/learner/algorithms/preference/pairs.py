"""From groups of ranked answers to the sequences of a preference batch.

The role of a sequence travels as its signal: CHOSEN (+1) or REJECTED (−1); a chosen answer stands right before the
rejected one of its pair. For `kto` there are no pairs: answers are liked (+1) or not (−1), and each is followed by a
sequence that puts it to another prompt of the batch (0), from which the baseline is estimated; where there is no other
prompt there is no such sequence, and the baseline is 0.
"""

import logging
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from penstock.objectives.preferences import rank_pairs
from penstock.recipes import Recipe
from penstock.recipes.choices import preference_choice
from penstock.recipes.sections import Preference
from penstock.trajectories import from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.samples import sample
from services.learner.interface.batch import TrainingSample
from services.learner.interface.group import CompleteGroup

logger = logging.getLogger(__name__)
CHOSEN, REJECTED, ELSEWHERE = 1.0, -1.0, 0.0
LIKED_FROM = 0.5
"""Reward from which a single answer counts as liked."""


def paired(preference: Preference) -> bool:
    """Whether the loss compares two answers; kto takes single ones."""
    return preference_choice(preference.loss).paired


class PreferencePairs:
    """The SampleMaker of preference losses."""

    def __init__(self, recipe: Recipe) -> None:
        self._settings = recipe.algorithm.preference

    def filter_reason(self, rewards: Tensor) -> str | None:
        """`no_pair`: no two members differ enough to say which is better."""
        if paired(self._settings) and not self._pairs(rewards.tolist()):
            return "no_pair"
        return None

    def samples(self, groups: Sequence[CompleteGroup]) -> list[TrainingSample]:
        """Pairs in admission order, or answers each followed by its sequence elsewhere."""
        if not paired(self._settings):
            return self._single(groups)
        made = []
        for i, group in enumerate(groups):
            members = [m.trajectory for m in group.usable]
            for chosen, rejected in self._pairs([t.reward for t in members]):
                made.append(sample(members[chosen], i, CHOSEN))
                made.append(sample(members[rejected], i, REJECTED))
        return made

    def _pairs(self, rewards: list[float]) -> list[tuple[int, int]]:
        return rank_pairs(rewards, self._settings.pairs_per_group, self._settings.min_margin)

    @staticmethod
    def _single(groups: Sequence[CompleteGroup]) -> list[TrainingSample]:
        answers = [(i, m.trajectory) for i, g in enumerate(groups) for m in g.usable]
        prompts = [_prompt(t) for _, t in answers]
        made = []
        for at, (group, t) in enumerate(answers):
            made.append(sample(t, group, CHOSEN if t.reward >= LIKED_FROM else REJECTED))
            if (other := _other(prompts, at)) is not None:
                made.append(_elsewhere(answers[other][1], t, group))
        if answers and len(made) == len(answers):
            logger.warning(
                "kto: all answers of a batch have one prompt, so nothing says what its baseline is; 0 is taken"
            )
        return made


def _prompt(t: pb.Trajectory) -> bytes:
    """What was asked, as it is compared."""
    return from_int32s(t.tokens)[: t.loss_mask.find(1)].tobytes()


def _other(prompts: Sequence[bytes], at: int) -> int | None:
    """The place of the nearest answer before `at` (the last is before the first) that has another prompt; None if all
    have the same."""
    for back in range(1, len(prompts)):
        if prompts[at - back] != prompts[at]:
            return (at - back) % len(prompts)
    return None


def _elsewhere(prompt: pb.Trajectory, answer: pb.Trajectory, group: int) -> TrainingSample:
    """`answer`'s completion after the prompt of another sample."""
    cut, start = prompt.loss_mask.find(1), answer.loss_mask.find(1)
    return TrainingSample(
        tokens=np.concatenate([from_int32s(prompt.tokens)[:cut], from_int32s(answer.tokens)[start:]]),
        loss_mask=[0] * cut + list(answer.loss_mask[start:]),
        signal=ELSEWHERE,
        group=group,
    )
