"""From scored groups to advantages, on rank 0 before a batch is sent: shaping, estimator, clip.

Two calls because they happen at two times: a group is filtered when it arrives (its slot must be given back at once, or
dynamic sampling starves the run), advantages need the whole batch (`batch_norm` scales by it).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from penstock.recipes import Recipe
from penstock.trajectories import contexts, returns, trained_tokens
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms import resolve
from services.learner.algorithms.rewards import GroupFilters, Shaping
from services.learner.algorithms.samples import sequences
from services.learner.interface.batch import TrainingSample
from services.learner.interface.group import CompleteGroup


class AdvantageSamples:
    """The SampleMaker of policy gradients with a group baseline.

    Raises UnknownChoice or ValueError for settings that name nothing or contradict.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._filters, self._shaping = GroupFilters(recipe.algorithm.filters), Shaping(recipe)
        self._estimate, self._clip = resolve.advantage(recipe), recipe.algorithm.advantage_clip
        self._discount = recipe.algorithm.branch_discount
        self._components = [r.name for r in recipe.rewards()] if resolve.takes_rewards_apart(recipe) else []

    def filter_reason(self, rewards: Tensor) -> str | None:
        """See GroupFilters."""
        return self._filters.reason(rewards)

    def samples(self, groups: Sequence[CompleteGroup]) -> list[TrainingSample]:
        """The usable members of `groups`, each context with its advantage. Raises ValueError for a reward that is not
        finite.

        Contexts of a sample that are worth the same are one answer, with one vote in its group's baseline; those that
        are not are answers of their own.
        """
        members = [(i, m.trajectory) for i, g in enumerate(groups) for m in g.usable]
        whole = [[t.reward] if self._components else _worths(t, self._discount) for _, t in members]
        answers = [(i, t) for (i, t), values in zip(members, whole, strict=True) for _ in values]
        if self._components:
            worth = self._parts([t for _, t in answers])
        else:
            worth = self._shaping.of([t for _, t in answers], [value for values in whole for value in values])
        lengths = torch.tensor([n for (_, t), values in zip(members, whole, strict=True) for n in _lengths(t, values)])
        found = iter(self.advantages(worth, torch.tensor([i for i, _ in answers]), lengths).tolist())
        return [
            each
            for (group, t), values in zip(members, whole, strict=True)
            for each in sequences(t, group, [next(found) for _ in values])
        ]

    def advantages(self, worth: Tensor, group: Tensor, lengths: Tensor | None = None) -> Tensor:
        """worth [N] float64, or [N, C] the parts of each reward; group [N] int64, lengths [N] in trained tokens (all
        alike if None) -> float64 [N].

        Raises ValueError for a number that is not finite.
        """
        valid = torch.ones(len(group), dtype=torch.bool)
        found = self._estimate(worth, group, valid, valid.long() if lengths is None else lengths)
        return found if self._clip is None else found.clamp(-self._clip, self._clip)

    def _parts(self, trajectories: Sequence[pb.Trajectory]) -> Tensor:
        rows = [{c.name: c.value for c in t.components} for t in trajectories]
        return torch.tensor([[row[name] for name in self._components] for row in rows], dtype=torch.float64)


def _worths(t: pb.Trajectory, discount: float) -> list[float]:
    """What the sample's contexts are worth: one number where that is the same."""
    values = returns(t, discount)
    return values if len(set(values)) > 1 else values[:1]


def _lengths(t: pb.Trajectory, worths: Sequence[float]) -> list[int]:
    """Trained tokens of each answer."""
    return [trained_tokens(t)] if len(worths) == 1 else [each.loss_mask.count(1) for each in contexts(t)]
