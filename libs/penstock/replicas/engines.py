"""The generation replicas as one: picks one per turn, and goes on elsewhere with the tokens drawn so far.

A group prefers one replica (rendezvous hash of group and address), because its members share a prompt and so a prefix
cache; it goes to the least loaded one where the preferred is clearly busier. A replica that failed is avoided for a
moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager

import grpc

from penstock import rpc
from penstock.common.v1.common_pb2 import SamplingParams
from penstock.generation.v1 import generation_pb2 as pb
from penstock.generation.v1 import generation_pb2_grpc
from penstock.membership import preferred
from penstock.replicas.pool import Members, Pool, Where, pool
from penstock.replicas.stopping import StopTexts
from penstock.replicas.together import Alone, Together
from penstock.telemetry.waits import waiting
from penstock.trajectories import TrajectoryBuilder, from_float32s, from_int32s, int32s
from penstock.trajectory.v1.trajectory_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    FinishReason,
    RolloutWork,
)

logger = logging.getLogger(__name__)

AVOID_SECONDS = 1.0
# A group leaves its preferred replica when that one has this many more requests than the least loaded.
IMBALANCE = 16
# The replica is gone or full: no attempt was made.
PIN_MISSED = "PIN_MISSED"
"""Why an engine refuses what is pinned to a version that it does not hold any more."""
ABSENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
# Worth asking again: absent, or failed in itself. Anything else would fail again.
RETRIED = (
    *ABSENT,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
)


class GenerationFailed(Exception):
    """A turn could not be generated; the text says why."""


@dataclasses.dataclass
class Replica:
    """One replica as this worker sees it."""

    address: str
    stub: generation_pb2_grpc.GenerationServiceAsyncStub
    in_flight: int = 0
    avoid_until: float = 0.0

    def __post_init__(self) -> None:
        self.calls = Together(self.stub)


class Engines:
    """All replicas. `attempts` bounds failures of a turn; waiting for an absent replica is bounded by time instead.

    where: their membership, where that says which version each holds.
    """

    def __init__(self, replicas: Pool[Replica], attempts: int, timeout: float, where: Members | None = None) -> None:
        self._replicas, self._attempts, self._timeout, self._where = replicas, attempts, timeout, where
        # A group's samples and turns ask the same, and a hash for each of 256 replicas takes .3 ms.
        self._home = functools.lru_cache(1024)(lambda group, changes: _preferred(group, self._replicas))

    def choose(self, group: str, pinned_step: int | None = None) -> Replica:
        """The replica for a request of `group` now; there must be one. With `pinned_step` one that holds that version,
        where any is known to."""
        now = time.monotonic()
        if pinned_step is None and len(self._replicas):
            wanted = self._home(group, self._replicas.changes)
            if wanted.avoid_until <= now and wanted.in_flight <= IMBALANCE:
                return wanted
        holding = self._where.holding(pinned_step) if self._where is not None and pinned_step is not None else None
        able = [r for r in self._replicas if holding is None or r.address in holding] or list(self._replicas)
        usable = [r for r in able if r.avoid_until <= now] or able
        wanted = _preferred(group, usable)
        least = min(usable, key=lambda r: r.in_flight)
        return least if wanted.in_flight - least.in_flight > IMBALANCE else wanted

    async def complete(
        self,
        builder: TrajectoryBuilder,
        group: str,
        work: RolloutWork,
        sampling: SamplingParams,
        until: float,
        text: Callable[[Sequence[int]], str] = lambda tokens: "",
        heard: Callable[[], None] = lambda: None,
    ) -> tuple[FinishReason, str]:
        """Draws the policy's next turn into `builder`; the finish reason and the replica that finished it.

        A replica that dies costs nothing but time: the next one goes on from the tokens already drawn. `until` is a
        time of time.monotonic(); `text` reads tokens, for the sampling's stop texts; `heard` is called when the
        builder has more. Raises GenerationFailed.
        """
        builder.begin_completion()
        stops = StopTexts(sampling.stop_texts, text)
        retry = rpc.Retry(RETRIED, self._attempts, ABSENT, pause=0.2, growth=2.0, longest=AVOID_SECONDS)
        tries = rpc.Tries(retry, self._timeout, until=until)
        while True:
            drawn = len(builder.completion)
            left = tries.left
            if drawn and builder.completion[-1] in sampling.stop_token_ids:
                builder.end_completion(FINISH_REASON_STOP)  # the replica died after the last token was drawn
                return FINISH_REASON_STOP, ""
            if drawn >= sampling.max_tokens:
                builder.end_completion(FINISH_REASON_LENGTH)
                return FINISH_REASON_LENGTH, ""
            if left <= 0:
                failed = f"{tries.failures} failed attempts"
                raise GenerationFailed(f"no replica generated within {self._timeout:g} s ({failed})")
            if not await self._replicas.some("a generation replica", on="generation", within=left):
                raise GenerationFailed(f"no replica took part in the run for {left:g} s")
            pinned = work.pinned_step if work.HasField("pinned_step") else None
            if pinned is not None and not await self._held(pinned, left):
                raise GenerationFailed(f"no replica held version {pinned} within {left:g} s")
            replica = self.choose(group, pinned)
            try:
                finish = await self._attempt(replica, builder, group, work, sampling, stops, left, heard)
            except Alone:
                continue  # by a call of its own
            except rpc.RpcError as error:
                if len(builder.completion) > drawn:
                    tries.progressed()
                if pinned is not None and error.reason == PIN_MISSED and not self._gone(pinned):
                    await tries.pause(error, on=f"generation {replica.address}")
                    continue  # another one has the version, or is about to
                replica.avoid_until = time.monotonic() + AVOID_SECONDS
                if not tries.worthwhile(error):
                    raise GenerationFailed(f"{replica.address}: {error}") from error
                if all(r.avoid_until > time.monotonic() for r in self._replicas):
                    with waiting("a generation replica", on=f"generation {replica.address}", deadline=left):
                        await tries.pause(error, on=f"generation {replica.address}")
                continue  # where another one can go on, at once
            builder.end_completion(finish)
            return finish, replica.address

    def _gone(self, step: int) -> bool:
        """Whether no replica will hold a version again, as far as is known."""
        return self._where is None or self._where.passed(step)

    async def _held(self, step: int, within: float) -> bool:
        """Waits, listed, until a replica may hold the version, or all have passed it, which they say themselves; False
        if neither is so after `within` seconds."""
        where = self._where

        def settled() -> bool:
            return where is None or bool(where.holding(step)) or where.passed(step)

        if where is None or settled():
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                wanted = f"a replica with version {step}"
                await where.watcher.until(lambda _: settled(), wanted, on="generation", idle=False)
        return settled()

    async def _attempt(
        self,
        replica: Replica,
        builder: TrajectoryBuilder,
        group: str,
        work: RolloutWork,
        sampling: SamplingParams,
        stops: StopTexts,
        timeout: float,
        heard: Callable[[], None],
    ) -> FinishReason:
        request = pb.GenerateRequest(
            request_id=group,
            prompt_tokens=int32s(builder.tokens),
            prompt_token_count=len(builder.tokens),
            sampling=sampling,
            min_step=work.min_step,
            steady=bool(sampling.stop_texts),
        )
        request.sampling.max_tokens = sampling.max_tokens - len(builder.completion)
        request.sampling.ClearField("stop_texts")
        if work.HasField("pinned_step"):
            request.pinned_step = work.pinned_step
        if builder.routes_from is not None:
            request.routes_from = builder.routes_from
        # Who reads along ends the stream, which others would have to share.
        alone = request.steady or bool(builder.completion) or replica.calls.alone
        ask = replica.calls.one if alone else replica.calls.shared
        replica.in_flight += 1
        try:
            with waiting(f"tokens for {group}", on=f"generation {replica.address}", deadline=timeout):
                async with aclosing(ask(request, timeout)) as chunks:
                    async for chunk in chunks:
                        try:
                            stopped = _draw(builder, chunk, stops)
                        except ValueError as error:  # the replica's fault, not this worker's
                            raise rpc.RpcError(grpc.StatusCode.INTERNAL, f"a malformed chunk: {error}") from error
                        heard()
                        if stopped:
                            return FINISH_REASON_STOP
                        if chunk.finish_reason:
                            return chunk.finish_reason
        finally:
            replica.in_flight -= 1
        raise rpc.RpcError(grpc.StatusCode.INTERNAL, "the stream ended without a finish reason")


def _preferred(group: str, replicas: Iterable[Replica]) -> Replica:
    known = {replica.address: replica for replica in replicas}
    return known[preferred(group, known)]


def _draw(builder: TrajectoryBuilder, chunk: pb.GenerateResponse, stops: StopTexts) -> bool:
    """Takes a chunk up to the end of a stop text, if one is written; whether it was."""
    tokens, logprobs = from_int32s(chunk.tokens).tolist(), from_float32s(chunk.logprobs).tolist()
    kept = stops.end(builder.completion, tokens)
    builder.drawn(tokens[:kept], logprobs[:kept], [s for s in chunk.version_segments if kept is None or s.first < kept])
    if builder.wants_routes and chunk.HasField("routes"):
        builder.routed(chunk.routes)
    return kept is not None


@asynccontextmanager
async def replicas_of(where: Where, security: rpc.Security) -> AsyncIterator[Pool[Replica]]:
    """The replicas, over open channels."""

    @asynccontextmanager
    async def opened(address: str) -> AsyncIterator[Replica]:
        async with rpc.channel(address, security=security) as channel:
            yield Replica(address, generation_pb2_grpc.GenerationServiceStub(channel))

    async with pool(where, opened, idle=lambda replica: not replica.in_flight) as replicas:
        yield replicas


@asynccontextmanager
async def engines(where: Where, security: rpc.Security, attempts: int, timeout: float) -> AsyncIterator[Engines]:
    """Engines over open channels. Raises ValueError for addresses that are none."""
    if not isinstance(where, Members) and not where:
        raise ValueError("at least one generation address is needed")
    async with replicas_of(where, security) as replicas:
        yield Engines(replicas, attempts, timeout, where if isinstance(where, Members) else None)
