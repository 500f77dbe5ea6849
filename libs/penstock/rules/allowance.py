"""What time a group has, whatever clocks say. Pure.

A deadline is a time of the clock of whoever admitted the group. Another host's clock may differ, a clock may jump, and
a run may be stopped for days: none of these is a reason to end a group. So a clock only shortens the time that a group
has, and never takes it away; what really ends is the time that somebody has been there to work on it.

Invariant (test name): a clock that is wrong takes no group's time away and gives none more than all of it.
"""

from google.protobuf.timestamp_pb2 import Timestamp


def over_by_clock(deadline: Timestamp, now: float) -> bool:
    """Whether the deadline has passed at `now` (seconds since the epoch): a reason to look closer, and no more."""
    return _left(deadline, now) <= 0


def allowance(deadline: Timestamp, full: float, now: float) -> float:
    """Seconds from now on that a group has, in (0, full]. full: what each has (limits.group_deadline_seconds)."""
    left = _left(deadline, now)
    return left if 0 < left <= full else full


def _left(deadline: Timestamp, now: float) -> float:
    return deadline.seconds + deadline.nanos / 1e9 - now
