"""From scored groups to advantages, on rank 0 before a batch is sent: shaping, filters, estimator, clip.

Two calls because they happen at two times: a group is filtered when it arrives (its slot must be given back at once, or
dynamic sampling starves the run), advantages need the whole batch (`batch_norm` scales by it).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from penstock.objectives import advantage_estimators, group_filters, shaping
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.stages import sample
from services.learner.interface.batch import Sample
from services.learner.interface.group import CompleteGroup
from services.learner.interface.settings import AdvantageSettings


class AdvantageStage:
    """The Stage of policy-gradient methods.

    Raises UnknownChoice or ValueError for settings that name nothing or contradict.
    """

    def __init__(self, settings: AdvantageSettings) -> None:
        self.settings = settings
        self._estimate = advantage_estimators.make(settings.estimator, **settings.estimator_settings)
        self._filters = {name: group_filters.make(name) for name in settings.filters}
        shaped(settings, torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.bool))  # checks what shapes
        if settings.clip is not None and settings.clip <= 0:
            raise ValueError(f"advantage.clip must be positive, got {settings.clip}")

    def filter_reason(self, rewards: Tensor, valid: Tensor) -> str | None:
        """Why this group (rewards [G], valid [G] bool) must not be trained, or None: `no_valid_sample`,
        `zero_variance`, `pass_rate`, or the name of a filter of one's own. Judged on rewards as scored, before shaping:
        length must not hide that a group has nothing to teach."""
        group = torch.zeros(len(rewards), dtype=torch.int64)
        if not bool(valid.any()):
            return "no_valid_sample"
        if self.settings.drop_zero_variance and shaping.zero_variance_groups(rewards, group, valid):
            return "zero_variance"
        if self.settings.pass_rate is not None:
            low, high = self.settings.pass_rate
            if shaping.pass_rate_groups_outside(rewards, group, valid, low, high):
                return "pass_rate"
        return next((name for name, drops in self._filters.items() if drops(rewards, valid)), None)

    def samples(self, groups: Sequence[CompleteGroup]) -> list[Sample]:
        """The usable members of `groups` with their advantages."""
        members = [(i, m.trajectory) for i, g in enumerate(groups) for m in g.usable]
        trajectories = [t for _, t in members]
        advantages = self.advantages(
            torch.tensor([t.reward for t in trajectories], dtype=torch.float64),
            torch.tensor([i for i, _ in members]),
            torch.ones(len(members), dtype=torch.bool),
            lengths_of(trajectories),
            truncated_of(trajectories),
            self._components(trajectories) if self.settings.components else None,
        )
        return [sample(t, group, a) for (group, t), a in zip(members, advantages.tolist(), strict=True)]

    def _components(self, trajectories: Sequence[pb.Trajectory]) -> Tensor:
        rows = [{c.name: c.value for c in t.components} for t in trajectories]
        return torch.tensor([[row[name] for name in self.settings.components] for row in rows], dtype=torch.float64)

    def advantages(
        self,
        rewards: Tensor,
        group: Tensor,
        valid: Tensor,
        lengths: Tensor,
        truncated: Tensor,
        components: Tensor | None = None,
    ) -> Tensor:
        """rewards [N], group [N] int64, valid [N] bool, lengths [N] (generated tokens), truncated [N] bool -> float64
        [N], 0 if not valid.

        components: [N, C], the parts named by `settings.components`, where the estimator takes the reward apart.
        Raises ValueError for a valid reward that is not finite.
        """
        settings = self.settings
        if components is not None:
            result: Tensor = self._estimate(components, group, valid)
            return result if settings.clip is None else result.clamp(-settings.clip, settings.clip)
        result = self._estimate(shaped(settings, rewards, lengths, truncated), group, valid)
        return result if settings.clip is None else result.clamp(-settings.clip, settings.clip)


def shaped(settings: AdvantageSettings, rewards: Tensor, lengths: Tensor, truncated: Tensor) -> Tensor:
    """rewards [N], lengths [N] in generated tokens, truncated [N] bool -> float64 [N], what is compared."""
    scaled = rewards.to(torch.float64) * settings.reward_scale
    result = shaping.stop_properly(scaled, truncated, settings.truncated_scale)
    if settings.overlong_buffer:
        result = result + shaping.overlong_penalty(lengths, settings.max_tokens, settings.overlong_buffer)
    return result


def lengths_of(trajectories: Sequence[pb.Trajectory]) -> Tensor:
    """int64 [N]: tokens that the policy drew."""
    return torch.tensor([sum(t.loss_mask) for t in trajectories])


def truncated_of(trajectories: Sequence[pb.Trajectory]) -> Tensor:
    """bool [N]: the answers that were cut off."""
    return torch.tensor([t.outcome.status == pb.Outcome.STATUS_TRUNCATED for t in trajectories])
