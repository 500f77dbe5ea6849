"""Keeps receivers at a version for a while: evaluations are pinned this way. Pure; the caller brings the clock.

Invariants (test names): a hold whose lease has ended holds nothing, so a dead holder delays receivers by its lease at
most; there are never more than MOST holds.
"""

MOST = 1024


class TooManyHolds(Exception):
    """MOST holders hold already."""


class Holds:
    """Leases on "not past this step"."""

    def __init__(self) -> None:
        self._holds: dict[str, tuple[int, float]] = {}

    def hold(self, holder: str, step: int, until: float, now: float) -> None:
        """Sets or renews a holder's lease. `until` and `now` are times of the caller's clock. Raises TooManyHolds."""
        self._holds = {name: held for name, held in self._holds.items() if held[1] > now}
        if holder not in self._holds and len(self._holds) >= MOST:
            raise TooManyHolds(f"{MOST} holders keep receivers back already")
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
