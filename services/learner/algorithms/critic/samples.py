"""From scored groups to samples with rewards where they were given, which the learner's critic makes advantages of.

What a context is worth, its answer's reward where contexts earn nothing by themselves, belongs to its last trained
token, after the same shaping as group baselines get; every other token's is 0.
Groups are not compared: there may be one answer to a prompt.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from penstock.recipes import Recipe
from penstock.trajectories import Drawn, contexts, returns
from services.learner.algorithms.rewards import GroupFilters, Shaping
from services.learner.algorithms.samples import sample
from services.learner.interface.batch import TrainingSample
from services.learner.interface.group import CompleteGroup


class CriticSamples:
    """The SampleMaker of `algorithm.advantage: gae`. Raises as AdvantageSamples."""

    def __init__(self, recipe: Recipe) -> None:
        self._filters, self._shaping = GroupFilters(recipe.algorithm.filters), Shaping(recipe)
        self._discount = recipe.algorithm.branch_discount

    def filter_reason(self, rewards: Tensor) -> str | None:
        """See GroupFilters."""
        return self._filters.reason(rewards)

    def samples(self, groups: Sequence[CompleteGroup]) -> list[TrainingSample]:
        """The usable members, each context with what it is worth at its last trained token."""
        members = [(i, m.trajectory) for i, group in enumerate(groups) for m in group.usable]
        every = [(i, t, each) for i, t in members for each in contexts(t)]
        given = [value for _, t in members for value in returns(t, self._discount)]
        worth = self._shaping.of([t for _, t, _ in every], given).tolist()
        return [
            sample(each, i, _at_the_end(each, value), t.index) for (i, t, each), value in zip(every, worth, strict=True)
        ]


def _at_the_end(t: Drawn, value: float) -> NDArray[np.float32]:
    """fp32 [token_count]: `value` at the last trained token."""
    mask = np.frombuffer(t.loss_mask, np.uint8)
    rewards = np.zeros(len(mask), np.float32)
    rewards[np.flatnonzero(mask)[-1:]] = value
    return rewards
