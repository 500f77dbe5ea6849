"""What is made of rewards before anything is compared: which groups are dropped, and what an answer is worth."""

from collections.abc import Sequence

import torch
from torch import Tensor

from penstock.objectives import group_filters, shaping
from penstock.recipes import Recipe
from penstock.recipes.sections import Filters
from penstock.trajectories import trained_tokens
from penstock.trajectory.v1 import trajectory_pb2 as pb


class GroupFilters:
    """The recipe's `algorithm.filters`. Raises UnknownChoice for one that nobody registered."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._own = {name: group_filters.make(name) for name in filters.own}

    def reason(self, rewards: Tensor) -> str | None:
        """Why a group with these rewards [G] must not be trained, or None: `no_valid_sample`, `zero_variance`,
        `pass_rate`, or the name of a filter of one's own. Judged on rewards as scored, before shaping: length must not
        hide that a group has nothing to teach."""
        if not len(rewards):
            return "no_valid_sample"
        group, valid = torch.zeros(len(rewards), dtype=torch.int64), torch.ones(len(rewards), dtype=torch.bool)
        if self._filters.zero_variance and shaping.zero_variance_groups(rewards, group, valid):
            return "zero_variance"
        low, high = self._filters.pass_rate_min, self._filters.pass_rate_max
        if (low, high) != (0.0, 1.0) and shaping.pass_rate_groups_outside(rewards, group, valid, low, high):
            return "pass_rate"
        return next((name for name, drops in self._own.items() if drops(rewards, valid)), None)


class Shaping:
    """What an answer is worth: its reward, scaled, less the penalty of being cut off or overlong. Raises ValueError for
    settings that contradict."""

    def __init__(self, recipe: Recipe) -> None:
        self._algorithm, self._max_tokens = recipe.algorithm, recipe.sampling.max_tokens
        self.shaped(torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.bool))  # checks what shapes

    def shaped(self, rewards: Tensor, lengths: Tensor, truncated: Tensor) -> Tensor:
        """rewards [N], lengths [N] in generated tokens, truncated [N] bool -> float64 [N], what is compared."""
        a = self._algorithm
        result = shaping.stop_properly(rewards.to(torch.float64) * a.reward_scale, truncated, a.truncated_scale)
        if a.overlong_buffer:
            result = result + shaping.overlong_penalty(lengths, self._max_tokens, a.overlong_buffer)
        return result

    def of(self, trajectories: Sequence[pb.Trajectory], given: Sequence[float] | None = None) -> Tensor:
        """float64 [N]: what each is worth. given: rewards in place of the samples' own."""
        rewards = torch.tensor([t.reward for t in trajectories] if given is None else given, dtype=torch.float64)
        drawn = torch.tensor([trained_tokens(t) for t in trajectories])
        cut_off = torch.tensor([t.outcome.status == pb.Outcome.STATUS_TRUNCATED for t in trajectories])
        return self.shaped(rewards, drawn, cut_off)
