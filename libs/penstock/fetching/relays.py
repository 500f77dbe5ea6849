"""The run's relays as one receiver sees them: the nearest gives the version, and one that fails costs a refetch.

    this host's relays  >  those of its zone  >  weight_sync        (weight_sync alone, where it is on this host itself)

weight_sync tells receivers of versions itself, with their digests, so a relay can delay nobody's knowledge and pass
nothing else for a version. Of several that are alike each receiver has its favourite, so that they share the work.

Invariants (test names): a relay that has not the version, is dead, hangs, lies or dies in mid-version is passed over,
counted and named once; one that lied is not asked for that version again; of a life that is over nothing is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
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


@dataclass
class _Life:
    """What is known of one life of a relay, and the connection to it; one that was started again begins anew.

    away: until when it is not asked. without: likewise, for that version. lied: for which versions it never is.
    """

    connection: AsyncExitStack = field(default_factory=AsyncExitStack)
    source: Source | None = None
    away: float = 0.0
    without: tuple[PolicyVersion | None, float] = (None, 0.0)
    lied: set[tuple[int, int]] = field(default_factory=set)

    def is_asked(self, version: PolicyVersion, now: float) -> bool:
        """Whether it may be asked for a version."""
        lacks, until = self.without
        lied = (version.epoch, version.step) in self.lied
        return not lied and now >= self.away and not (lacks == version and now < until)


class Relays:
    """One receiver's, open in the block. view: who takes part in the run. own: what it says of itself."""

    def __init__(
        self, view: View, own: Member, security: Security, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._view, self._own, self._security, self._clock = view, own, security, clock
        self._lives = dict[tuple[str, int], _Life]()

    async def __aenter__(self) -> Relays:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._let_go(set())

    async def take(self, hands: Hands, version: PolicyVersion, model: Callable[[], bytes] = bytes) -> Held | None:
        """Takes a version into the hands from the nearest relay that gives it; None where none does. Whether it is of
        another model is for weight_sync to say."""
        await self._let_go({_key(member) for member in self._view.of("relay")})
        for member in near(self._view, self._own):
            life = self._lives.setdefault(_key(member), _Life())
            if not life.is_asked(version, self._clock()):
                continue
            try:
                return await hands.take_from(await self._source(member, life), version, model)
            except (FetchFailed, ValueError) as error:  # a ValueError: a token that would cross a network in plain text
                self._pass_over(member, life, version, error)
        return None

    def _pass_over(self, member: Member, life: _Life, version: PolicyVersion, error: Exception) -> None:
        cause, until = error.__cause__, self._clock() + AGAIN_SECONDS
        if isinstance(cause, (ValueError, DecodeError)) or isinstance(error, AnotherModel):
            why = "lies"
            life.lied.add((version.epoch, version.step))
        elif isinstance(cause, rpc.errors.NotFound):
            why = "has it not"
            life.without = version, until
        else:
            why = "fails"
            life.away = until
        _passed_over.labels(why).inc()
        logger.warning("relay %s is passed over for version %d: it %s: %s", member.instance, version.step, why, error)

    async def _source(self, member: Member, life: _Life) -> Source:
        """Raises ValueError."""
        if life.source is None:
            opened = rpc.channel(member.address, security=self._security, stream_seconds=86400)
            channel = await life.connection.enter_async_context(opened)
            life.source = Source(channel, Bulk.beside(member.address, self._security, SILENT_SECONDS), member.instance)
        return life.source

    async def _let_go(self, there: Collection[tuple[str, int]]) -> None:
        """Of every life that is not among these."""
        for key in [key for key in self._lives if key not in there]:
            await self._lives.pop(key).connection.aclose()


def _key(member: Member) -> tuple[str, int]:
    """Of one life of a relay."""
    return member.instance, member.incarnation
