"""Follows who takes part in a run, and whether the run is over.

What is said is heard at once (`penstock.bus.hearing`), and only tells that there is something to look up: what counts
is what the bucket holds, for a message that it refused is heard as well. One is heard before it is stored, too, so it
is looked for until it is there, for STORED_SECONDS. What says nothing new is not looked up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from google.protobuf.message import DecodeError

from penstock.bus import Bucket, Bus, BusError, Heard, RunNames, hearing
from penstock.members.v1.members_pb2 import Member
from penstock.membership.beside import beside
from penstock.membership.view import GONE_SECONDS, View
from penstock.names import ENDS
from penstock.telemetry.waits import waiting

logger = logging.getLogger(__name__)
TICK_SECONDS = 0.5
MOST_AWAITED = 1024
"""Members that may have said something new in the same moment."""
AGAIN_SECONDS, STORED_SECONDS = 0.05, 3.0


class Watcher:
    """What is known now: `view`, and how the run ended (`over`; empty while it has not). Made by `watching`."""

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        *,
        gone_seconds: float = GONE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.view, self.over = View(gone_seconds), ""
        self._bus, self._names, self._bucket, self._clock = bus, names, Bucket(bus, names), clock
        self._start = len(names.key_subject("x")) - 1
        self._changes, self._changed = 0, asyncio.Condition()
        self._awaited: dict[str, tuple[bytes, float]] = {}  # what was heard of a key, and until when it is looked for

    @property
    def changes(self) -> int:
        """Grows with every change."""
        return self._changes

    async def changed(self, seen: int) -> int:
        """Waits until `changes` is another number than `seen`; that number."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._changes != seen)
            return self._changes

    async def until(self, holds: Callable[[View], bool], what: str, *, on: str, idle: bool = False) -> None:
        """Waits, listed and without a deadline, until something holds of the view. idle: as of a wait."""
        with waiting(what, on=on, deadline=None, idle=idle):
            async with self._changed:
                await self._changed.wait_for(lambda: holds(self.view))

    async def until_over(self) -> None:
        """Waits, listed and without a deadline, until the run is over."""
        with waiting("the end of the run", on="the run", deadline=None, idle=True):
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self.over))

    async def look(self) -> None:
        """Reads everything that the bucket holds. Raises BusError."""
        over = await self._bucket.get(self._names.over_key)
        if self._said_over(over.value if over is not None else b""):
            await self._notify()
        async with aclosing(self._bucket.matching(self._names.member_subjects)) as found:
            async for each in found:
                await self._entry(each.key, each.value, each.revision)

    async def run(self, heard: asyncio.Queue[Heard]) -> None:
        """Follows for ever what is heard."""
        reconnections = self._bus.reconnections
        while True:
            try:
                try:
                    async with asyncio.timeout(AGAIN_SECONDS if self._awaited else TICK_SECONDS):
                        message = await heard.get()
                except TimeoutError:
                    pass
                else:
                    await self._take(message)
                await self._look_again()
                if self._bus.reconnections != reconnections:
                    reconnections = self._bus.reconnections
                    self.view.hear_all(self._clock())
                    await self.look()
            except BusError as error:
                logger.info("looking at the members again: %s", error)
                reconnections = -1
            await self._expire()

    async def _take(self, message: Heard) -> None:
        key = message.subject[self._start :]
        if key == self._names.over_key:
            if self._said_over(message.payload):
                await self._notify()
            return
        if not self._is_members(key) or (key not in self._awaited and len(self._awaited) >= MOST_AWAITED):
            logger.warning("what was heard under %.100r is left aside", key)
            return
        member = _member(key, message.payload)
        if member is not None and self.view.holds(key, member):
            self.view.hear(key, self._clock())
            return
        self._awaited[key] = (message.payload, time.monotonic() + STORED_SECONDS)

    def _is_members(self, key: str) -> bool:
        """Whether a member may have the key: whoever may speak at all may say anything under any."""
        try:
            _, kind, instance = key.split(".")
            return key == self._names.member_key(kind, instance)
        except ValueError:
            return False

    async def _look_again(self) -> None:
        for key, (payload, until) in list(self._awaited.items()):
            stored = await self._bucket.last(key)
            if stored is not None:
                await self._entry(key, stored.value, stored.revision)
            if (stored is not None and stored.value == payload) or time.monotonic() > until:
                del self._awaited[key]

    async def _entry(self, key: str, value: bytes, revision: int) -> None:
        if self.view.entry(key, _member(key, value), revision, self._clock()):
            await self._notify()

    async def _expire(self) -> None:
        if not self._bus.connected:
            self.view.hear_all(self._clock())
        for key in self.view.expire(self._clock()):
            logger.warning("%s is gone: nothing was heard of it for too long", key)
            await self._notify()

    def _said_over(self, value: bytes) -> bool:
        """Whether that is news. What no coordinator says is none: NATS can be made to write its own words."""
        said = value.decode(errors="replace")
        if said and said not in ENDS:
            logger.warning("%r is no end of a run", said[:60])
            return False
        before, self.over = self.over, said
        return before != said

    async def _notify(self) -> None:
        async with self._changed:
            self._changes += 1
            self._changed.notify_all()


def _member(key: str, value: bytes) -> Member | None:
    """What a key holds; None where that is nothing, or not what this key may hold."""
    try:
        member = Member.FromString(value)
    except DecodeError:
        logger.warning("%s holds no member", key)
        return None
    return member if key == f"member.{member.kind}.{member.instance}" else None


@asynccontextmanager
async def watching(
    bus: Bus,
    names: RunNames,
    *,
    gone_seconds: float = GONE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Watcher]:
    """A Watcher that knows everybody who is there, and follows until the end of the block. Raises BusError."""
    watcher = Watcher(bus, names, gone_seconds=gone_seconds, clock=clock)
    async with hearing(bus, names.member_subjects, names.key_subject(names.over_key)) as heard:
        await watcher.look()
        async with beside(watcher.run(heard)):
            yield watcher
