"""Notices that a run has stopped moving. Pure: the clock is an argument.

A run moves when its ledger or its log grows. Evaluations and long completions are movement of the log too, so a limit
of a few minutes does not cry at healthy runs; a paused, starting or ended run never stalls.

Invariant (test name): a stall is announced once, and again only after the run has moved.
"""

import dataclasses


@dataclasses.dataclass
class StallWatch:
    """`limit`: seconds without movement after which a run has stalled."""

    limit: float
    _position: tuple[int, int] | None = None
    _since: float = 0.0
    stalled: bool = False

    def look(self, position: tuple[int, int], expected: bool, now: float) -> bool:
        """Whether a stall begins now.

        Args:
            position: (ledger entries, log entries) so far. expected: whether the run ought to move at all.
            now: seconds of a clock that never goes back.
        """
        if position != self._position or not expected:
            self._position, self._since, self.stalled = position, now, False
            return False
        begins = not self.stalled and now - self._since >= self.limit
        self.stalled = self.stalled or begins
        return begins

    def excuse(self, now: float) -> None:
        """What was taken for a stall is none: somebody computes. It is looked at again after another `limit`."""
        self._since, self.stalled = now, False

    def seconds(self, now: float) -> float:
        """Since when nothing moved."""
        return now - self._since
