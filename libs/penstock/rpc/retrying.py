"""Asks again what is worth asking again: one policy, one clock and one pause for every repeated call.

    AWAY = Retry((UNAVAILABLE, RESOURCE_EXHAUSTED))
    answer = await retried(
        AWAY, 30.0, lambda left: call(stub.Score(request, timeout=left)), what="scores", on="reward"
    )

A server that is starting, draining or full says after how many seconds to come back; the policy's pause holds where it
says nothing. gRPC's own retries (`channel(idempotent=…)`) end after four attempts and a second, which is too short for
a service that is started again. Only idempotent calls may be repeated.

Invariants (test names): a code that is not listed propagates at once; nothing is asked at or after the deadline but
once; a cancellation is never repeated; a pause is what the server asked for, else grows with the failures that count.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc

from penstock.rpc.errors import RpcError
from penstock.telemetry.waits import waiting

logger = logging.getLogger(__name__)
T = TypeVar("T")
# What an attempt is given at least: a deadline that has just passed is the server's to refuse.
LEAST_SECONDS = 0.05
GROWTHS = 4
SHORTEST = 0.01  # seconds of a pause, whoever asks for less


@dataclass(frozen=True)
class Retry:
    """Which failures are repeated, and when.

    codes: worth another attempt. attempts: failures at which it is given up; None leaves that to the deadline.
    absent: codes that are no failed attempt, because nobody was there to try. pause: seconds before the next attempt
    where the server does not say; times `growth` for each failed attempt, GROWTHS times. longest: bound of a pause,
    whoever asks for it. log: the level of the line about each repetition.
    """

    codes: tuple[grpc.StatusCode, ...]
    attempts: int | None = None
    absent: tuple[grpc.StatusCode, ...] = ()
    pause: float = 0.5
    growth: float = 1.0
    longest: float = math.inf
    log: int = logging.DEBUG


class Tries:
    """The attempts at one thing. `failures`: the failed ones so far.

    The deadline is `within` seconds after the last progress, and `until` (a time of `clock`) whatever the progress.
    """

    def __init__(
        self,
        retry: Retry,
        within: float,
        *,
        until: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.failures = 0
        self._retry, self._within, self._until, self._clock, self._sleep = retry, within, until, clock, sleep
        self._progress_at = clock()

    @property
    def left(self) -> float:
        """Seconds to the deadline; negative after it."""
        return min(self._until, self._progress_at + self._within) - self._clock()

    def progressed(self) -> None:
        """The last attempt got somewhere before it failed."""
        self._progress_at = self._clock()

    def worthwhile(self, error: RpcError) -> bool:
        """Counts a failed attempt; whether there may be another, if there is time."""
        self.failures += error.code not in self._retry.absent
        bounded = self._retry.attempts is not None and self.failures >= self._retry.attempts
        return error.code in self._retry.codes and not bounded

    def pause_after(self, error: RpcError) -> float:
        """Seconds to wait before the next attempt."""
        own = self._retry.pause * self._retry.growth ** min(self.failures, GROWTHS)
        asked = error.retry_after or 0.0
        return min(max(asked, SHORTEST) if asked > 0 else own, self._retry.longest)

    async def pause(self, error: RpcError, *, on: str) -> None:
        """Waits, listed with the error, before the next attempt."""
        seconds = self.pause_after(error)
        logger.log(self._retry.log, "asking %s again in %.2f s: %s", on, seconds, error)
        with waiting(error.message, on=on, deadline=seconds):
            await self._sleep(seconds)

    async def again(self, error: RpcError, *, on: str) -> None:
        """Waits before the next attempt. Raises the error if there is none."""
        if not self.worthwhile(error) or self.pause_after(error) >= self.left:
            raise error
        await self.pause(error, on=on)


async def retried(
    retry: Retry,
    within: float,
    ask: Callable[[float], Awaitable[T]],
    *,
    what: str,
    on: str,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """The first answer of `ask`, which gets the seconds that are left and raises RpcError.

    Args:
        within: seconds after which it is given up, with the last error.
        what, on: for the list of waits.
    """
    tries = Tries(retry, within, clock=clock, sleep=sleep)
    with waiting(what, on=on, deadline=within):
        while True:
            try:
                return await ask(max(LEAST_SECONDS, tries.left))
            except RpcError as error:
                await tries.again(error, on=on)
