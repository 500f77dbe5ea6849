"""From scored groups to advantages, on rank 0 before a batch is sent: shaping, filters, estimator, clip.

Two calls because they happen at two times: a group is filtered when it arrives (its slot must be given back at once, or
dynamic sampling starves the run), advantages need the whole batch (`batch_norm` scales by it).
"""

import torch
from torch import Tensor

from penstock.objectives import advantage_estimators, shaping
from services.learner.settings import AdvantageSettings


class AdvantageStage:
    """Settings bound once. Raises UnknownChoice or ValueError for settings that name nothing or contradict."""

    def __init__(self, settings: AdvantageSettings) -> None:
        self.settings = settings
        self._estimate = advantage_estimators.make(settings.estimator, **settings.estimator_settings)
        if settings.overlong_buffer:
            shaping.overlong_penalty(torch.zeros(1), settings.max_tokens, settings.overlong_buffer)  # checks the pair
        if settings.clip is not None and settings.clip <= 0:
            raise ValueError(f"advantage.clip must be positive, got {settings.clip}")

    def filter_reason(self, rewards: Tensor, valid: Tensor) -> str | None:
        """Why this group (rewards [G], valid [G] bool) must not be trained, or None: `no_valid_sample`,
        `zero_variance`, `pass_rate`. Judged on rewards as scored, before shaping: length must not hide that a group
        has nothing to teach."""
        group = torch.zeros(len(rewards), dtype=torch.int64)
        if not bool(valid.any()):
            return "no_valid_sample"
        if self.settings.drop_zero_variance and shaping.zero_variance_groups(rewards, group, valid):
            return "zero_variance"
        if self.settings.pass_rate is not None:
            low, high = self.settings.pass_rate
            if shaping.pass_rate_groups_outside(rewards, group, valid, low, high):
                return "pass_rate"
        return None

    def advantages(self, rewards: Tensor, group: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
        """rewards [N], group [N] int64, valid [N] bool, lengths [N] (generated tokens) -> float64 [N], 0 if not valid.

        Raises ValueError for a valid reward that is not finite.
        """
        settings = self.settings
        shaped = rewards.to(torch.float64) * settings.reward_scale
        if settings.overlong_buffer:
            shaped = shaped + shaping.overlong_penalty(lengths, settings.max_tokens, settings.overlong_buffer)
        result: Tensor = self._estimate(shaped, group, valid)
        return result if settings.clip is None else result.clamp(-settings.clip, settings.clip)
