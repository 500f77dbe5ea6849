"""Puts a trajectory together turn by turn, so that arrays cannot disagree: the only way our code makes one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from penstock.common.v1 import common_pb2
from penstock.trajectories.arrays import float32s, int32s
from penstock.trajectories.routes import RouteRows
from penstock.trajectory.v1 import trajectory_pb2 as pb

Filled = TypeVar("Filled", pb.Trajectory, pb.Branch)


class TrajectoryBuilder:
    """Tokens, mask, log-probabilities, versions and turns of one episode as they come.

    Invariant: the four arrays always have the same length, and every generated token lies in a version segment.
    wants_routes: whether the routes of a mixture of experts are asked for beside them.
    """

    def __init__(self, wants_routes: bool = False) -> None:
        self.wants_routes = wants_routes
        self._routes = RouteRows()
        self.tokens: list[int] = []
        self._mask: list[int] = []
        self._logprobs: list[float] = []
        self._turns: list[pb.Turn] = []
        self._segments: list[pb.VersionSegment] = []

    def context(self, role: str, tokens: Sequence[int]) -> None:
        """Adds tokens that the policy did not draw: prompts and observations. Not trained."""
        if not tokens:
            return
        start = len(self.tokens)
        self.tokens += tokens
        self._mask += [0] * len(tokens)
        self._logprobs += [0.0] * len(tokens)
        self._turns.append(pb.Turn(role=role, start=start, end=len(self.tokens)))

    def begin_completion(self) -> None:
        """Opens the policy's turn; `drawn` fills it and `end_completion` closes it."""
        self._turns.append(pb.Turn(role="assistant", start=len(self.tokens), end=len(self.tokens)))

    def drawn(self, tokens: Sequence[int], logprobs: Sequence[float], segments: Sequence[pb.VersionSegment]) -> None:
        """Adds drawn tokens [n], their log-probabilities [n] and version segments (`first` from the chunk's start)."""
        if len(tokens) != len(logprobs):
            raise ValueError(f"{len(tokens)} tokens but {len(logprobs)} logprobs")
        if tokens and (not segments or segments[0].first != 0):
            raise ValueError("version segments must begin with the chunk's first token")
        start = len(self.tokens)
        self.tokens += tokens
        self._mask += [1] * len(tokens)
        self._logprobs += logprobs
        for segment in segments:
            if not self._segments or self._segments[-1].version != segment.version:
                self._segments.append(pb.VersionSegment(first=start + segment.first, version=segment.version))
        self._turns[-1].end = len(self.tokens)

    def routed(self, routes: pb.Routes) -> None:
        """Adds rows of what has been drawn from so far; those of tokens that are not here are left out. Raises
        ValueError for rows that no router chose."""
        self._routes.take(routes, len(self.tokens) - 1)

    @property
    def routes_from(self) -> int | None:
        """The first row that is lacking, if any are asked for."""
        return self._routes.lacking if self.wants_routes else None

    def end_completion(self, finish: pb.FinishReason) -> None:
        """Closes the policy's turn."""
        self._turns[-1].finish_reason = finish

    @property
    def completion(self) -> list[int]:
        """Tokens of the policy's latest turn."""
        turn = self._turns[-1]
        return self.tokens[turn.start : turn.end]

    def trains(self, tokens: Sequence[int]) -> bool:
        """Whether it begins with these tokens, the last of which it trains."""
        end = len(tokens)
        return bool(tokens) and self.tokens[:end] == list(tokens) and self._mask[end - 1] == 1

    def copy(self) -> TrajectoryBuilder:
        """Another that goes on from here by itself."""
        other = TrajectoryBuilder(self.wants_routes)
        other._routes = self._routes.copy()
        other.tokens, other._mask, other._logprobs = list(self.tokens), list(self._mask), list(self._logprobs)
        for turn in self._turns:
            other._turns.append(pb.Turn())
            other._turns[-1].CopyFrom(turn)
        other._segments = list(self._segments)
        return other

    def given(self, first: int | None = None) -> TrajectoryBuilder:
        """A copy whose `first` tokens, all if None, were given and are not trained: what a branch begins with."""
        other, first = self.copy(), len(self.tokens) if first is None else first
        other._mask[:first], other._logprobs[:first] = [0] * first, [0.0] * first
        other._drawn_by({at: version for at, version in self._versions() if at >= first})
        return other

    def take_in(self, other: TrajectoryBuilder) -> None:
        """Trains here, too, what `other` has drawn; this one begins with its tokens. What both have drawn stays as it
        is here."""
        self._routes.fill_from(other._routes)
        versions = dict(self._versions())
        for at, version in other._versions():
            if not self._mask[at]:
                self._mask[at], self._logprobs[at], versions[at] = 1, other._logprobs[at], version
        self._drawn_by(versions)
        self._turns = _laid_out(self._turns, other._turns)

    def _drawn_by(self, versions: Mapping[int, common_pb2.PolicyVersion]) -> None:
        """Which version drew each of the drawn tokens, by position."""
        self._segments = []
        for at in sorted(versions):
            if not self._segments or self._segments[-1].version != versions[at]:
                self._segments.append(pb.VersionSegment(first=at, version=versions[at]))

    def _versions(self) -> Iterator[tuple[int, common_pb2.PolicyVersion]]:
        """The drawn tokens' positions, in order, and which version drew each."""
        ends = [*(s.first for s in self._segments[1:]), len(self.tokens)]
        for segment, end in zip(self._segments, ends, strict=True):
            for at in itertools.compress(range(segment.first, end), self._mask[segment.first : end]):
                yield at, segment.version

    @property
    def completion_logprobs(self) -> list[float]:
        """Of the policy's latest turn, one for each token."""
        turn = self._turns[-1]
        return self._logprobs[turn.start : turn.end]

    def fill(self, t: Filled) -> Filled:
        """Writes the arrays into `t` and gives it back."""
        t.token_count = len(self.tokens)
        t.tokens = int32s(self.tokens)
        t.loss_mask = np.asarray(self._mask, np.uint8).tobytes()
        t.logprobs = float32s(np.minimum(self._logprobs, 0.0))
        t.turns.extend(self._turns)
        t.version_segments.extend(self._segments)
        routes = self._routes.packed()
        if routes is not None:
            t.routes.CopyFrom(routes)
        return t


def _laid_out(own: Sequence[pb.Turn], others: Sequence[pb.Turn]) -> list[pb.Turn]:
    """One's own turns with what the policy drew in the others: what was given lies around it."""
    found = [turn for turn in own if turn.finish_reason]
    found += [t for t in others if t.finish_reason and all(t.end <= m.start or t.start >= m.end for m in found)]
    found.sort(key=lambda turn: turn.start)
    places = itertools.pairwise([0, *itertools.chain.from_iterable((t.start, t.end) for t in found), 2**32 - 1])
    for start, end in list(places)[::2]:
        clipped = ((t.role, max(t.start, start), min(t.end, end)) for t in own if not t.finish_reason)
        found += [pb.Turn(role=role, start=first, end=last) for role, first, last in clipped if first < last]
    return sorted(found, key=lambda turn: turn.start)


def header(task: pb.GroupTask, index: int, model: str) -> pb.Trajectory:
    """A trajectory with the identity of one sample of a task, and nothing else yet."""
    t = pb.Trajectory(
        run=task.run,
        group=task.group,
        index=index,
        group_size=task.group_size,
        kind=task.kind,
        model=model,
        seed=task.seed + index,
        row=task.row,
    )
    if task.HasField("rollout"):
        t.task_id = task.rollout.task.id
        t.environment = task.rollout.task.environment
        t.source = task.rollout.task.source
        t.min_step = task.rollout.min_step
        t.sampling.CopyFrom(task.rollout.sampling)
        t.sampling.seed = t.seed
    return t


def demonstration(
    task: pb.GroupTask, index: int, model: str, tokens: Sequence[int], mask: Sequence[int]
) -> pb.Trajectory:
    """A sample that no policy drew: tokens [n], mask [n] (1 where trained), no log-probabilities, no versions."""
    t = header(task, index, model)
    t.token_count = len(tokens)
    t.tokens = int32s(tokens)
    t.loss_mask = np.asarray(mask, np.uint8).tobytes()
    t.logprobs = float32s([0.0] * len(tokens))
    t.outcome.status = pb.Outcome.STATUS_COMPLETED
    t.ended_at.GetCurrentTime()
    return t


def failed(task: pb.GroupTask, index: int, model: str, failure: pb.Outcome.Failure, detail: str) -> pb.Trajectory:
    """The typed end of a sample that could not be completed. It carries no tokens and no reward."""
    t = header(task, index, model)
    t.outcome.status = pb.Outcome.STATUS_FAILED
    t.outcome.failure = failure
    t.outcome.detail = detail[:2000]
    t.ended_at.GetCurrentTime()
    return t


def version(epoch: int, step: int, digest: bytes = b"") -> common_pb2.PolicyVersion:
    """A PolicyVersion."""
    return common_pb2.PolicyVersion(epoch=epoch, step=step, digest=digest)
