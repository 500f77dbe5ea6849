"""The newest samples of a run's log and how fast they come. Derived from the stream; lost and rebuilt at will."""

import dataclasses
import time
from collections import deque

from penstock.showing.reader import RECENT
from penstock.trajectories import trained_tokens
from penstock.trajectory.v1 import trajectory_pb2

SPEED_SECONDS = 10.0


@dataclasses.dataclass
class LogTail:
    """The tail of the trajectory log; `count` samples were seen since this process started."""

    count: int = 0
    recent: deque[trajectory_pb2.Trajectory] = dataclasses.field(default_factory=lambda: deque(maxlen=RECENT))
    _drawn: deque[tuple[float, int]] = dataclasses.field(default_factory=deque)

    def add(self, t: trajectory_pb2.Trajectory) -> None:
        """Takes the next trajectory of the log."""
        self.count += 1
        self.recent.appendleft(t)
        self._drawn.append((time.monotonic(), trained_tokens(t)))

    def tokens_per_second(self) -> float:
        """Generated tokens per second over the last SPEED_SECONDS."""
        now = time.monotonic()
        while self._drawn and self._drawn[0][0] < now - SPEED_SECONDS:
            self._drawn.popleft()
        return sum(n for _, n in self._drawn) / SPEED_SECONDS
