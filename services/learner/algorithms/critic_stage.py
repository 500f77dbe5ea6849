"""From scored groups to samples with rewards where they were given, which the learner's critic makes advantages of.

An answer's reward belongs to its last trained token, after the same shaping as group baselines get;
every other token's is 0. Groups are not compared: there may be one answer to a prompt.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.advantage_stage import AdvantageStage, lengths_of, shaped, truncated_of
from services.learner.algorithms.stages import sample
from services.learner.interface.batch import Sample
from services.learner.interface.group import CompleteGroup
from services.learner.interface.settings import AdvantageSettings


class CriticStage:
    """The Stage of `algorithm.advantage: gae`. Filters are those of AdvantageStage."""

    def __init__(self, settings: AdvantageSettings) -> None:
        self._settings = settings
        self._filters = AdvantageStage(dataclasses.replace(settings, estimator="grpo", estimator_settings={}))

    def filter_reason(self, rewards: Tensor, valid: Tensor) -> str | None:
        return self._filters.filter_reason(rewards, valid)

    def samples(self, groups: Sequence[CompleteGroup]) -> list[Sample]:
        """The usable members, each with its reward at its last trained token."""
        members = [(i, m.trajectory) for i, group in enumerate(groups) for m in group.usable]
        trajectories = [t for _, t in members]
        rewards = torch.tensor([t.reward for t in trajectories], dtype=torch.float64)
        worth = shaped(self._settings, rewards, lengths_of(trajectories), truncated_of(trajectories))
        return [sample(t, i, _at_the_end(t, value)) for (i, t), value in zip(members, worth.tolist(), strict=True)]


def _at_the_end(t: pb.Trajectory, value: float) -> NDArray[np.float32]:
    """fp32 [token_count]: `value` at the last trained token."""
    mask = np.frombuffer(t.loss_mask, np.uint8)
    rewards = np.zeros(len(mask), np.float32)
    rewards[np.flatnonzero(mask)[-1:]] = value
    return rewards
