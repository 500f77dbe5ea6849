"""Says in the run's bucket that this process takes part, again and again until it leaves.

Every announcement is fenced by the revision of the one before. So a second process of one name takes the name, and the
first learns it at its next announcement (`NameTaken`). One whose announcement ran out (it was stopped, or cut off) is
written off by everybody: it knows that by its own clock, and begins anew where nobody has taken its name.

Invariants (test names): of two processes of one name the later stays; one that cannot announce itself knows that it is
written off when others know it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from google.protobuf.message import DecodeError

from penstock.bus import Bucket, Bus, BusError, Fenced, RunNames
from penstock.members.v1.members_pb2 import Member, MemberState
from penstock.membership.view import GONE_SECONDS, REFRESH_SECONDS

logger = logging.getLogger(__name__)
LEAVE_SECONDS = 2.0


class NameTaken(RuntimeError):
    """Another process has this one's name in the run: this one must end."""


class Announcer:
    """This process as a member. Made by `announcing`."""

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        member: Member,
        *,
        refresh_seconds: float = REFRESH_SECONDS,
        gone_seconds: float = GONE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.member = member
        if not member.HasField("since"):
            member.since.GetCurrentTime()
        self._key = names.member_key(member.kind, member.instance)
        self._bucket, self._refresh, self._gone, self._clock = Bucket(bus, names), refresh_seconds, gone_seconds, clock
        self._revision, self._begun = 0, False
        self._heard = clock()
        self._writing = asyncio.Lock()
        self._listeners: list[Callable[[bool], None]] = []
        self._away = False

    @property
    def written_off(self) -> bool:
        """Whether others no longer count on this process: it takes no work then."""
        return self._away

    def when_written_off(self, listener: Callable[[bool], None]) -> None:
        """Calls `listener` with True when others stop counting on this process, and with False when they do again."""
        self._listeners.append(listener)

    async def say(self, state: MemberState) -> None:
        """Says at once that the process is so far. Raises NameTaken, BusError."""
        self.member.state = state
        await self._say()

    async def run(self) -> None:
        """Announces for ever. Raises NameTaken."""
        while True:
            await asyncio.sleep(min(self._refresh, self._gone / 3))  # time passing is what is announced
            try:
                await self._say()
            except BusError as error:
                logger.warning("cannot announce %s: %s", self._key, error)
            self._judge()

    async def leave(self) -> None:
        """Says that the process is gone. Raises BusError."""
        async with self._writing:
            self._revision = await self._bucket.renew(
                self._key, b"", self._revision, ttl=1, within=LEAVE_SECONDS, removed=True
            )

    async def _say(self) -> None:
        async with self._writing:
            while True:
                try:
                    await self._write()
                    break
                except Fenced as fenced:
                    await self._begin(fenced)
            self._heard = self._clock()
        self._judge()

    async def _write(self) -> None:
        within, ttl = max(self._refresh, 0.5), max(1, math.ceil(self._gone))
        if not self.member.incarnation:  # nobody is READY before it has its number
            first = Member()
            first.CopyFrom(self.member)
            first.state = MemberState.MEMBER_STATE_STARTING
            value = first.SerializeToString(deterministic=True)
            self._revision = await self._bucket.renew(self._key, value, self._revision, ttl=ttl, within=within)
            self._begun, self.member.incarnation = True, self._revision
        value = self.member.SerializeToString(deterministic=True)
        self._revision = await self._bucket.renew(self._key, value, self._revision, ttl=ttl, within=within)

    async def _begin(self, fenced: Fenced) -> None:
        """Takes the name: from nobody, or from whoever had it before this process came. Raises NameTaken."""
        stored = await self._bucket.last(self._key)
        if stored is not None and self._wrote(stored.value):  # its acknowledgement was lost
            self._revision = stored.revision
            return
        if self._begun and stored is not None and stored.value:
            raise NameTaken(
                f"another process takes part as {self.member.instance!r} ({self.member.kind}) since; this one ends. "
                "Give each its own --name"
            ) from fenced
        self._revision = stored.revision if stored is not None else 0
        self.member.incarnation, self._begun = 0, False

    def _wrote(self, value: bytes) -> bool:
        """Whether an announcement is this process's own: no other began in the same nanosecond at the same address."""
        try:
            stored = Member.FromString(value)
        except DecodeError:
            return False
        return stored.since == self.member.since and stored.address == self.member.address

    def _judge(self) -> None:
        away = self._clock() - self._heard >= self._gone
        if away == self._away:
            return
        self._away = away
        if away:
            logger.warning("nothing of %s was heard for %g s: it takes no work", self._key, self._gone)
        for listener in self._listeners:
            listener(away)


@asynccontextmanager
async def announcing(
    bus: Bus,
    names: RunNames,
    member: Member,
    *,
    refresh_seconds: float = REFRESH_SECONDS,
    gone_seconds: float = GONE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Announcer]:
    """An Announcer that has said where it is; it leaves at the end of the block. `run` goes on saying so.

    Raises NameTaken, BusError.
    """
    announcer = Announcer(bus, names, member, refresh_seconds=refresh_seconds, gone_seconds=gone_seconds, clock=clock)
    await announcer.say(member.state)
    try:
        yield announcer
    finally:
        try:
            await announcer.leave()
        except BusError as error:
            logger.info("left without a word: %s", error)
