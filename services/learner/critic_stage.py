"""From scored groups to samples with rewards where they were given, which the learner's critic makes advantages of.

An answer's reward belongs to its last trained token, after the same shaping as group baselines get (scale, overlong
punishment); every other token's is 0. Groups are not compared: there may be one answer to a prompt.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from penstock.objectives import shaping
from services.learner.advantage_stage import AdvantageStage
from services.learner.assembly import CompleteGroup
from services.learner.batch import Sample
from services.learner.settings import AdvantageSettings
from services.learner.stages import sample


class CriticStage:
    """The Stage of `algorithm.advantage: gae`. Filters are those of AdvantageStage."""

    def __init__(self, settings: AdvantageSettings) -> None:
        self._settings = settings
        self._filters = AdvantageStage(dataclasses.replace(settings, estimator="grpo", estimator_settings={}))

    def filter_reason(self, rewards: Tensor, valid: Tensor) -> str | None:
        return self._filters.filter_reason(rewards, valid)

    def samples(self, groups: Sequence[CompleteGroup]) -> list[Sample]:
        """The usable members, each with its reward at its last trained token."""
        made = []
        for i, group in enumerate(groups):
            for t in (m.trajectory for m in group.usable):
                mask = np.frombuffer(t.loss_mask, np.uint8)
                rewards = np.zeros(len(mask), np.float32)
                rewards[np.flatnonzero(mask)[-1:]] = self._shaped(t.reward, int(mask.sum()))
                made.append(sample(t, i, rewards))
        return made

    def _shaped(self, reward: float, length: int) -> float:
        settings = self._settings
        if settings.overlong_buffer:
            lengths = torch.tensor([length])
            penalty = shaping.overlong_penalty(lengths, settings.max_tokens, settings.overlong_buffer)
            return reward * settings.reward_scale + float(penalty)
        return reward * settings.reward_scale
