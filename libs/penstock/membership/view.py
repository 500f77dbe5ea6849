"""Who takes part in a run, as one process knows it. Pure: what was read and heard goes in, with the time it was.

    entry    what the run's bucket holds under a key now, with its revision
    hear     somebody has said under this key what it holds already: the member is alive
    expire   who has not been heard for GONE_SECONDS is gone, whatever the bucket says

Invariants (test names): the newest revision of a key counts, in whatever order they are read; a member that is not
heard for GONE_SECONDS is in no view; only READY members get work, the nearest first.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.members.v1.members_pb2 import Member, MemberState

REFRESH_SECONDS = 5.0
"""A member says again that it is there so often."""
GONE_SECONDS = 15.0
"""A member that was not heard for so long is gone; one that could not be heard for so long knows that it is."""
MISSED_SECONDS = 600.0
"""For so long a member that fell silent is missed, unless it left or came again."""


@dataclass
class _Seen:
    """member: None for one that has left, or is gone. missed: who is gone without having left."""

    member: Member | None
    revision: int
    heard: float
    missed: Member | None = None


class View:
    """The members by their keys. Times are of one monotonic clock."""

    def __init__(self, gone_seconds: float = GONE_SECONDS) -> None:
        self._gone_seconds = gone_seconds
        self._seen: dict[str, _Seen] = {}

    def entry(self, key: str, member: Member | None, revision: int, now: float) -> bool:
        """Takes what the bucket holds under a key; whether that changes anything. member: None where it was removed."""
        before = self._seen.get(key)
        if before is not None and revision <= before.revision:
            return False
        self._seen[key] = _Seen(member, revision, now)
        return (before.member if before is not None else None) != member

    def holds(self, key: str, member: Member) -> bool:
        """Whether the key is known to hold just this."""
        seen = self._seen.get(key)
        return seen is not None and seen.member == member

    def hear(self, key: str, now: float) -> None:
        """The key's member has said once more what it said before."""
        self._seen[key].heard = now

    def hear_all(self, now: float) -> None:
        """Nobody could be heard for a while, so nobody's silence says anything."""
        for seen in self._seen.values():
            seen.heard = now

    def expire(self, now: float) -> list[str]:
        """Drops whoever was not heard for too long; their keys."""
        gone = [
            key
            for key, seen in self._seen.items()
            if seen.member is not None and now - seen.heard >= self._gone_seconds
        ]
        for key in gone:
            self._seen[key].missed, self._seen[key].member = self._seen[key].member, None
        return gone

    def missed(self, now: float) -> list[tuple[Member, float]]:
        """Who fell silent lately and did not come again, and for how many seconds it was not heard."""
        found = [(seen.missed, now - seen.heard) for seen in self._seen.values() if seen.missed is not None]
        return [(member, silent) for member, silent in found if silent < MISSED_SECONDS]

    def members(self) -> list[Member]:
        """Everybody, by kind and instance."""
        found = [seen.member for seen in self._seen.values() if seen.member is not None]
        return sorted(found, key=lambda m: (m.kind, m.instance))

    def of(self, kind: str, serves: str = "") -> list[Member]:
        """Those of a kind, whatever their state; those that give the reward `serves`, where that is named."""
        return [m for m in self.members() if m.kind == kind and (not serves or m.serves == serves)]

    def ready(self, kind: str, serves: str = "", *, zone: str = "") -> list[Member]:
        """Those of a kind that get work, those of `zone` first."""
        able = [m for m in self.of(kind, serves) if m.state == MemberState.MEMBER_STATE_READY]
        return sorted(able, key=lambda m: (bool(zone) and m.zone != zone, m.instance))
