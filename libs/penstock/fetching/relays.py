"""The run's relays as one receiver sees them: the nearest gives the version, and one that fails costs a refetch.

    this host's relays  >  those of its zone  >  weight_sync        (weight_sync alone, where it is on this host itself)

weight_sync tells receivers of versions itself, with their digests, so a relay can delay nobody's knowledge and pass
nothing else for a version. Of several that are alike each receiver has its favourite, so that they share the work.

Invariants (test names): a relay that has not the version, is dead, hangs, lies or dies in mid-version is passed over,
counted and named once; one that lied is not asked for that version again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType

from google.protobuf.message import DecodeError

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.fetching.bulk import Bulk
from penstock.fetching.hands import Hands, Held
from penstock.fetching.source import SILENT_SECONDS, Source
from penstock.fetching.whole import AnotherModel, FetchFailed
from penstock.membership import Member, View, preferred
from penstock.rpc import Security
from penstock.telemetry import metrics

logger = logging.getLogger(__name__)
AGAIN_SECONDS = 60.0
"""After which a relay is asked again that did not answer, or asked for a version again that it had not."""
_passed_over = metrics.counter(metrics.RELAYS_PASSED_OVER, "relays that did not give a version", ["why"])


def near(view: View, own: Member) -> list[Member]:
    """The relays that are nearer than weight_sync, nearest first. Pure."""
    if any(member.host == own.host for member in view.ready("weight_sync")):
        return []
    found = [m for m in view.ready("relay") if m.host == own.host or (own.zone and m.zone == own.zone)]
    if not found:
        return []
    favourite = preferred(own.instance, [m.instance for m in found])
    return sorted(found, key=lambda m: (m.host != own.host, m.instance != favourite, m.instance))


class Relays:
    """One receiver's, open in the block. view: who takes part in the run. own: what it says of itself."""

    def __init__(
        self, view: View, own: Member, security: Security, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._view, self._own, self._security, self._clock = view, own, security, clock
        self._sources = dict[str, Source]()  # by address; closed at the end
        self._stack = AsyncExitStack()
        self._lied = set[tuple[str, int, int]]()
        self._away = dict[str, float]()  # until when one is not asked
        self._without = dict[str, tuple[PolicyVersion, float]]()  # likewise, for that version

    async def __aenter__(self) -> Relays:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def take(self, hands: Hands, version: PolicyVersion, model: Callable[[], bytes] = bytes) -> Held | None:
        """Takes a version into the hands from the nearest relay that gives it; None where none does. Whether it is of
        another model is for weight_sync to say."""
        for member in near(self._view, self._own):
            if not self._is_asked(member, version):
                continue
            try:
                return await hands.take_from(await self._source(member), version, model)
            except (FetchFailed, ValueError) as error:  # a ValueError: a token that would cross a network in plain text
                self._pass_over(member, version, error)
        return None

    def _is_asked(self, member: Member, version: PolicyVersion) -> bool:
        now, key = self._clock(), _key(member)
        without, until = self._without.get(key, (None, 0.0))
        lied = (key, version.epoch, version.step) in self._lied
        return not lied and now >= self._away.get(key, 0.0) and not (without == version and now < until)

    def _pass_over(self, member: Member, version: PolicyVersion, error: Exception) -> None:
        key, cause, until = _key(member), error.__cause__, self._clock() + AGAIN_SECONDS
        if isinstance(cause, (ValueError, DecodeError)) or isinstance(error, AnotherModel):
            why = "lies"
            self._lied.add((key, version.epoch, version.step))
        elif isinstance(cause, rpc.errors.NotFound):
            why = "has it not"
            self._without[key] = (version, until)
        else:
            why = "fails"
            self._away[key] = until
        _passed_over.labels(why).inc()
        logger.warning("relay %s is passed over for version %d: it %s: %s", member.instance, version.step, why, error)

    async def _source(self, member: Member) -> Source:
        """Raises ValueError."""
        if member.address not in self._sources:
            opened = rpc.channel(member.address, security=self._security, stream_seconds=86400)
            channel = await self._stack.enter_async_context(opened)
            bulk = Bulk.beside(member.address, self._security, SILENT_SECONDS)
            self._sources[member.address] = Source(channel, bulk, member.instance)
        return self._sources[member.address]


def _key(member: Member) -> str:
    """Of one life of a relay: one that was started again begins anew."""
    return f"{member.instance} {member.incarnation}"
