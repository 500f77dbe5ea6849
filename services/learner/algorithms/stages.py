"""What stands between scored groups and the batch of a step, on rank 0: one Stage per family of methods.

A stage is asked twice, because two things happen at two times: a group is judged when it arrives (its slot must be
given back at once), and samples are made when the whole batch is known.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from penstock.trajectories import from_float32s, from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.batch import Sample
from services.learner.interface.group import CompleteGroup


class Stage(Protocol):
    """A method's way from groups to samples."""

    def filter_reason(self, rewards: Tensor, valid: Tensor) -> str | None:
        """Why a group (rewards [G], valid [G] bool) must not be trained, or None."""
        ...

    def samples(self, groups: Sequence[CompleteGroup]) -> list[Sample]:
        """The training samples of a batch of usable groups."""
        ...


class Stages:
    """The stage of every source of tasks, by the source's name; the first also takes what names none.

    whole_only: sources whose truncated answers are left out: they are not trained and have no vote in a baseline.
    """

    def __init__(self, by_source: Mapping[str, Stage], whole_only: Collection[str] = ()) -> None:
        self._by_source, self._whole_only = dict(by_source), frozenset(whole_only)
        self._first = next(iter(by_source))

    def filter_reason(self, group: CompleteGroup) -> str | None:
        """Why a group must not be trained, or None."""
        members = self.kept(group).usable
        if not members:
            return "no_valid_sample"
        rewards = torch.tensor([m.trajectory.reward for m in members], dtype=torch.float64)
        return self._stage(group).filter_reason(rewards, torch.ones(len(rewards), dtype=torch.bool))

    def kept(self, group: CompleteGroup) -> CompleteGroup:
        """The group without the members that are left out."""
        if self._source(group) not in self._whole_only:
            return group
        truncated = pb.Outcome.STATUS_TRUNCATED
        return CompleteGroup(group.name, tuple(m for m in group.members if m.trajectory.outcome.status != truncated))

    def samples(self, groups: Sequence[CompleteGroup]) -> list[Sample]:
        """The training samples of a batch, in the order of its groups. A source's stage sees its own groups alone: a
        baseline or a scale taken over the batch is taken over them."""
        parts: dict[Stage, list[int]] = {}
        for i, group in enumerate(groups):
            parts.setdefault(self._stage(group), []).append(i)
        made = [
            dataclasses.replace(s, group=places[s.group])
            for stage, places in parts.items()
            for s in stage.samples([self.kept(groups[i]) for i in places])
        ]
        return sorted(made, key=lambda s: s.group)

    def _source(self, group: CompleteGroup) -> str:
        return group.source if group.source in self._by_source else self._first

    def _stage(self, group: CompleteGroup) -> Stage:
        return self._by_source[self._source(group)]


class SupervisedStage:
    """Every demonstration is trained on as it is."""

    def filter_reason(self, rewards: Tensor, valid: Tensor) -> str | None:
        return None

    def samples(self, groups: Sequence[CompleteGroup]) -> list[Sample]:
        return [sample(m.trajectory, i) for i, g in enumerate(groups) for m in g.usable]


def sample(t: pb.Trajectory, group: int, advantage: float | ArrayLike = 0.0) -> Sample:
    """A trajectory as a training sample; advantage is one number, or one per token."""
    return Sample(
        tokens=from_int32s(t.tokens),
        loss_mask=np.frombuffer(t.loss_mask, np.uint8),
        behaviour_logprobs=from_float32s(t.logprobs),
        advantage=advantage,
        group=group,
        versions=versions(t),
    )


def versions(t: pb.Trajectory) -> NDArray[np.int64]:
    """int64 [token_count]: the version (step) that drew each token; 0 before the first that one drew."""
    drawn = np.zeros(t.token_count, np.int64)
    for segment in t.version_segments:
        drawn[segment.first :] = segment.version.step
    return drawn
