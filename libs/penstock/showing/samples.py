"""A sample as people read it: its prompt, what was drawn and what was given in turn, and which version drew what. Pure.

Invariant (test name): the texts of the turns are the sample's text.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from penstock.chat import HasText
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.trajectories import Drawn, from_float32s, from_int32s, newest_step, oldest_step
from penstock.trajectory.v1 import trajectory_pb2


def readable(t: trajectory_pb2.Trajectory, chat: HasText) -> pb.Sample:
    """A trajectory as people read it, the completion cut into turns and into pieces by version."""
    tokens = from_int32s(t.tokens)
    drawn = np.frombuffer(t.loss_mask, np.uint8) == 1
    start = int(drawn.argmax()) if drawn.any() else len(tokens)
    result = pb.Sample(
        group=t.group,
        index=t.index,
        kind=t.kind,
        prompt=chat.text(tokens[:start].tolist()),
        completion=chat.text(tokens[start:].tolist()),
        outcome=t.outcome,
        ended_at=t.ended_at,
        traceparent=t.traceparent,
        components=t.components,
        branch_rewards=t.branch_rewards,
    )
    if t.HasField("reward"):
        result.reward = t.reward
    logprobs = from_float32s(t.logprobs)
    result.turns.extend(_turns(t, chat))
    for branch in t.branches:
        result.branches.add(turns=_turns(branch, chat))
    for i, segment in enumerate(t.version_segments):
        final = i + 1 == len(t.version_segments)
        span = slice(segment.first, t.token_count if final else t.version_segments[i + 1].first)
        mean = float(logprobs[span][drawn[span]].mean()) if drawn[span].any() else 0.0
        result.pieces.add(text=chat.text(tokens[span].tolist()), step=segment.version.step, mean_logprob=mean)
    oldest, newest = oldest_step(t), newest_step(t)
    if oldest is not None and newest is not None:
        result.oldest_step, result.newest_step = oldest, newest
    return result


def _turns(t: Drawn, chat: HasText) -> list[pb.Sample.Turn]:
    """A context whole: what was given and what was drawn take turns."""
    tokens, logprobs, drawn = (
        from_int32s(t.tokens),
        from_float32s(t.logprobs),
        np.frombuffer(t.loss_mask, np.uint8) == 1,
    )
    return [
        pb.Sample.Turn(
            drawn=bool(drawn[first]),
            text=chat.text(tokens[first:last].tolist()),
            tokens=last - first,
            mean_logprob=float(logprobs[first:last].mean()) if drawn[first] else 0.0,
        )
        for first, last in _runs(drawn)
    ]


def _runs(drawn: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where `drawn` changes: stretches [first, last) of equal values."""
    changes = [0, *(np.flatnonzero(np.diff(drawn)) + 1).tolist(), len(drawn)]
    yield from ((first, last) for first, last in itertools.pairwise(changes) if first < last)
