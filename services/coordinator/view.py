"""What people see of a run: recent samples, speeds, curves. Derived from the streams; lost and rebuilt at will."""

import dataclasses
import time
from collections import deque

import numpy as np

from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.trajectories import from_float32s, from_int32s
from penstock.trajectory.v1 import trajectory_pb2

RECENT = 500
SPEED_SECONDS = 10.0


@dataclasses.dataclass
class LogView:
    """The tail of the trajectory log; `count` samples were seen since this process started."""

    count: int = 0
    recent: deque[trajectory_pb2.Trajectory] = dataclasses.field(default_factory=lambda: deque(maxlen=RECENT))
    _drawn: deque[tuple[float, int]] = dataclasses.field(default_factory=deque)

    def add(self, t: trajectory_pb2.Trajectory) -> None:
        """Takes the next trajectory of the log."""
        self.count += 1
        self.recent.appendleft(t)
        self._drawn.append((time.monotonic(), sum(t.loss_mask)))

    def tokens_per_second(self) -> float:
        """Generated tokens per second over the last SPEED_SECONDS."""
        now = time.monotonic()
        while self._drawn and self._drawn[0][0] < now - SPEED_SECONDS:
            self._drawn.popleft()
        return sum(n for _, n in self._drawn) / SPEED_SECONDS


def sample(t: trajectory_pb2.Trajectory, chat: ChatTokenizer) -> pb.Sample:
    """A trajectory as people read it, the completion cut into pieces by version."""
    tokens, logprobs = from_int32s(t.tokens), from_float32s(t.logprobs)
    start = t.loss_mask.find(1)
    start = len(tokens) if start < 0 else start
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
    )
    if t.HasField("reward"):
        result.reward = t.reward
    drawn = np.frombuffer(t.loss_mask, np.uint8) == 1
    for i, segment in enumerate(t.version_segments):
        last = i + 1 == len(t.version_segments)
        span = slice(segment.first, t.token_count if last else t.version_segments[i + 1].first)
        mean = float(logprobs[span][drawn[span]].mean()) if drawn[span].any() else 0.0
        result.pieces.add(text=chat.text(tokens[span].tolist()), step=segment.version.step, mean_logprob=mean)
    if t.version_segments:
        steps = [s.version.step for s in t.version_segments]
        result.oldest_step, result.newest_step = min(steps), max(steps)
    return result
