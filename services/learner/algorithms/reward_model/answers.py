"""From groups of ranked answers to the sequences of a reward model's batch.

A model reads tokens 0 … L−2 of a sequence and says something of each trained token t at position t−1. The score of an
answer is read at its last token, so every sequence gets one token more, which alone is trained and never an input. Its
signal carries the data's score of the answer.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from penstock.recipes import Recipe
from penstock.trajectories import from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.batch import TrainingSample
from services.learner.interface.group import CompleteGroup

BEHIND = 0
"""The token behind an answer. Any would do: its place counts."""


class RankedAnswers:
    """The SampleMaker of reward models."""

    def __init__(self, recipe: Recipe) -> None:
        self._min_margin = recipe.algorithm.reward_model.min_margin

    def filter_reason(self, rewards: Tensor) -> str | None:
        """`no_pair`: no two members differ enough to say which is better."""
        ranked = len(rewards) > 1 and float(rewards.max() - rewards.min()) > self._min_margin
        return None if ranked else "no_pair"

    def samples(self, groups: Sequence[CompleteGroup]) -> list[TrainingSample]:
        """Every usable answer once, in the groups' order."""
        return [ranked_answer(m.trajectory, i) for i, g in enumerate(groups) for m in g.usable]


def ranked_answer(t: pb.Trajectory, group: int) -> TrainingSample:
    """An answer, to be scored at its last token."""
    tokens = from_int32s(t.tokens)
    mask = np.zeros(len(tokens) + 1, np.float32)
    mask[-1] = 1.0
    return TrainingSample(np.append(tokens, BEHIND), mask, signal=t.reward, group=group)
