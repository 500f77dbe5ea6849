"""Routes come with a turn's tokens: over deaths, stop texts and later turns, and once for all who share a call."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from penstock import rpc
from penstock.common.v1.common_pb2 import SamplingParams
from penstock.generation.v1 import generation_pb2
from penstock.replicas import engines as module
from penstock.replicas.engines import engines
from penstock.testing.fake_engine import FakeEngine, Tokens, serving
from penstock.trajectories import RouteShape, TrajectoryBuilder, from_int32s
from penstock.trajectories.routes import Rows, packed, unpacked
from penstock.trajectory.v1 import trajectory_pb2 as pb

SHAPE = RouteShape(2, 2, 8)
STOP = pb.FINISH_REASON_STOP
SAMPLING = SamplingParams(temperature=1, top_p=1, max_tokens=8, stop_token_ids=[2])


def rows_of(tokens: list[int], of: int = 0) -> Rows:
    """A row for each token, which says the token and who routed it."""
    return np.array([[[t % 7, 7]] + [[of, of + 1]] for t in tokens], np.uint8)


class Routing(FakeEngine):
    """Draws 5 and 6 and 2, a token a chunk, with rows as asked for; sample i routes as `of` = i. dies: after how many
    tokens each call breaks."""

    dies: list[int]

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        self.requests.append(request)
        whole, most = from_int32s(request.prompt_tokens).tolist(), self.dies.pop(0) if self.dies else 99
        given = len(whole)
        told = {i: request.routes_from if i == 0 else max(given - 1, 0) for i in range(max(1, request.samples))}
        drawn = [t for t in (5, 6, 2) if t not in whole[3:]]
        for at, token in enumerate(drawn):
            whole.append(token)
            for sample in told:
                if at == most:
                    raise rpc.unavailable("died", retry_after=0.01)
                chunk = Tokens([token], finish=STOP if token == 2 else 0).response()  # type: ignore[arg-type]
                chunk.sample = sample
                new = whole[told[sample] : -1]
                if new and request.HasField("routes_from"):
                    chunk.routes.CopyFrom(packed(SHAPE, rows_of(new, sample), told[sample]))
                    told[sample] += len(new)
                yield chunk


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AVOID_SECONDS", 0.05)


async def turns(fake: Routing, *builders: TrajectoryBuilder, text: str = "") -> None:
    """A turn of each, begun in one moment; text: that ends it."""
    sampling = SamplingParams()
    sampling.CopyFrom(SAMPLING)
    sampling.stop_texts.extend([text] if text else [])
    async with serving(fake) as addresses, engines(addresses, rpc.Security(), 3, 10) as pool:
        until = time.monotonic() + 10
        await asyncio.gather(
            *(
                pool.complete(
                    each, "g", pb.RolloutWork(), sampling, until, lambda ts: "".join("ab"[t == 6] for t in ts)
                )
                for each in builders
            )
        )


def begun(routes: bool = True) -> TrajectoryBuilder:
    builder = TrajectoryBuilder(routes)
    builder.context("user", [3, 4, 1])
    return builder


def routing(*dies: int) -> Routing:
    fake = Routing()
    fake.dies = list(dies)
    return fake


def rows(builder: TrajectoryBuilder) -> Rows:
    return unpacked(builder.fill(pb.Trajectory()).routes)


async def test_a_turn_goes_on_elsewhere_from_the_first_row_that_is_lacking() -> None:
    fake, builder = routing(2), begun()
    await turns(fake, builder)
    assert builder.tokens == [3, 4, 1, 5, 6, 2]
    assert [r.routes_from for r in fake.requests] == [0, 4], "the last token that was drawn had no row yet"
    assert np.array_equal(rows(builder), rows_of([3, 4, 1, 5, 6]))


async def test_the_next_turn_takes_the_rows_of_what_came_between() -> None:
    fake, builder = routing(), begun()
    await turns(fake, builder, text="b")
    assert builder.tokens == [3, 4, 1, 5, 6] and np.array_equal(rows(builder), rows_of([3, 4, 1, 5]))
    builder.context("user", [1, 1])
    await turns(fake, builder)
    assert [r.routes_from for r in fake.requests] == [0, 4]
    assert np.array_equal(rows(builder), rows_of(builder.tokens[:-1]))


async def test_the_prompts_rows_come_once_for_all_who_share_a_call() -> None:
    """What each drew has its own rows, and so has the token that it draws from first."""
    fake, builders = routing(), [begun() for _ in range(3)]
    await turns(fake, *builders)
    assert [(r.samples, r.routes_from) for r in fake.requests] == [(3, 0)]
    for i, builder in enumerate(builders):
        own = rows_of([3, 4, 1, 5, 6], i)
        own[:2] = rows_of([3, 4], 0)
        assert np.array_equal(rows(builder), own)


async def test_who_asks_for_none_sends_what_it_always_sent() -> None:
    fake, builder = routing(), begun(routes=False)
    await turns(fake, builder)
    assert not fake.requests[0].HasField("routes_from")
    assert not builder.fill(pb.Trajectory()).HasField("routes")


async def test_an_engine_that_records_none_is_no_failure() -> None:
    builder = begun()
    async with serving(FakeEngine()) as addresses, engines(addresses, rpc.Security(), 1, 10) as pool:
        await pool.complete(builder, "g", pb.RolloutWork(), SAMPLING, time.monotonic() + 10)
    assert builder.completion == [7, 2] and not builder.fill(pb.Trajectory()).HasField("routes")


async def test_rows_that_no_router_chose_are_a_failed_attempt() -> None:
    class Wrong(Routing):
        async def Generate(
            self, request: generation_pb2.GenerateRequest, context: Any
        ) -> AsyncIterator[generation_pb2.GenerateResponse]:
            async for chunk in super().Generate(request, context):
                if len(self.requests) == 1:
                    chunk.routes.gaps = bytes(len(chunk.routes.gaps))
                yield chunk

    fake = Wrong()
    fake.dies = []
    builder = begun()
    await turns(fake, builder)
    assert len(fake.requests) == 2 and np.array_equal(rows(builder), rows_of(builder.tokens[:-1]))
