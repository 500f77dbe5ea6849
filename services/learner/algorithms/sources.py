"""What stands between judged groups and the batch of a step, on rank 0: a SampleMaker for every source of tasks."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import torch

from penstock.recipes import Recipe
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.method import SampleMaker
from services.learner.algorithms.table import algorithm_of
from services.learner.interface.batch import Batch, Signal, TrainingSample
from services.learner.interface.group import CompleteGroup


class Sources:
    """The sample maker of every source of tasks, by the source's name; the first also takes what names none.

    signal: what all their samples carry: the sources of a mixture feed one trainer.
    whole_only: sources whose truncated answers are left out: they are not trained and have no vote in a baseline.
    """

    def __init__(
        self, by_source: Mapping[str, SampleMaker], signal: Signal = "advantage", whole_only: Collection[str] = ()
    ) -> None:
        self._by_source, self._signal, self._whole_only = dict(by_source), signal, frozenset(whole_only)
        self._first = next(iter(by_source))

    @staticmethod
    def of(recipe: Recipe) -> "Sources":
        """Every source's own way from groups to samples."""
        sources = recipe.sources
        whole_only = [name for name, r in sources.items() if r.rolls_out and r.algorithm.filters.truncated]
        makers = {name: algorithm_of(r).samples(r) for name, r in sources.items()}
        return Sources(makers, algorithm_of(recipe).signal, whole_only)

    def filter_reason(self, group: CompleteGroup) -> str | None:
        """Why a group must not be trained, or None."""
        members = self.kept(group).usable
        if not members:
            return "no_valid_sample"
        rewards = torch.tensor([m.trajectory.reward for m in members], dtype=torch.float64)
        return self._maker(group).filter_reason(rewards)

    def kept(self, group: CompleteGroup) -> CompleteGroup:
        """The group without the members that are left out."""
        if self._source(group) not in self._whole_only:
            return group
        truncated = pb.Outcome.STATUS_TRUNCATED
        return CompleteGroup(group.name, tuple(m for m in group.members if m.trajectory.outcome.status != truncated))

    def samples(self, groups: Sequence[CompleteGroup]) -> list[TrainingSample]:
        """The training samples of kept groups, in their order. A source's maker sees its own groups alone: a baseline
        or a scale taken over the batch is taken over them."""
        parts: dict[SampleMaker, list[int]] = {}
        for i, group in enumerate(groups):
            parts.setdefault(self._maker(group), []).append(i)
        made = [
            dataclasses.replace(s, group=places[s.group])
            for maker, places in parts.items()
            for s in maker.samples([groups[i] for i in places])
        ]
        return sorted(made, key=lambda s: s.group)

    def batch(self, groups: Sequence[CompleteGroup], version: int = 0) -> Batch:
        """The batch of kept groups, to be trained on weights of `version`."""
        return Batch.from_samples(self.samples(groups), self._signal, version)

    def _source(self, group: CompleteGroup) -> str:
        return group.source if group.source in self._by_source else self._first

    def _maker(self, group: CompleteGroup) -> SampleMaker:
        return self._by_source[self._source(group)]
