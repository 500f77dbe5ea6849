"""Keeps receivers at a version for a while: evaluations are pinned this way. Pure; the caller brings the clock.

Invariant (test name): a hold whose lease has ended holds nothing, so a dead holder delays receivers by its lease at
most.
"""


class Holds:
    """Leases on "not past this step"."""

    def __init__(self) -> None:
        self._holds: dict[str, tuple[int, float]] = {}

    def hold(self, holder: str, step: int, until: float) -> None:
        """Sets or renews a holder's lease. `until` is a time of the caller's clock."""
        self._holds[holder] = (step, until)

    def release(self, holder: str) -> None:
        """Ends a hold, if there is one."""
        self._holds.pop(holder, None)

    def ceiling(self, now: float) -> int | None:
        """The step receivers may not be moved past; None if there is no hold."""
        return min((step for step, until in self._holds.values() if until > now), default=None)

    def next_expiry(self, now: float) -> float | None:
        """When the next lease ends."""
        return min((until for _, until in self._holds.values() if until > now), default=None)
