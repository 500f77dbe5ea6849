"""First turns of one group share a call, with replicas of today; with older ones each sample has a call of its own."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from penstock import rpc
from penstock.common.v1.common_pb2 import SamplingParams
from penstock.generation.v1 import generation_pb2
from penstock.replicas.engines import Engines, GenerationFailed, engines
from penstock.replicas.together import MOST, Together
from penstock.testing.fake_engine import FakeEngine, Tokens, serving
from penstock.trajectories import TrajectoryBuilder
from penstock.trajectory.v1 import trajectory_pb2 as pb

STOP = pb.FINISH_REASON_STOP
SAMPLING = SamplingParams(temperature=1, top_p=1, max_tokens=8, stop_token_ids=[2])


class Modern(FakeEngine):
    """Draws all samples of a request: sample i has i + 1 tokens 5 and a stop token, a token a chunk, dealt in turns."""

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        self.requests.append(request)
        for step in range(max(1, request.samples) + 1):
            for sample in range(max(1, request.samples)):
                if step <= sample + 1:
                    last = step == sample + 1
                    chunk = Tokens([2 if last else 5], finish=STOP if last else 0).response()  # type: ignore[arg-type]
                    chunk.sample = sample
                    yield chunk


async def turn(pool: Engines, prompt: list[int], sampling: SamplingParams = SAMPLING, group: str = "g") -> list[int]:
    builder = TrajectoryBuilder()
    builder.context("user", prompt)
    await pool.complete(builder, group, pb.RolloutWork(), sampling, time.monotonic() + 10, lambda tokens: "")
    return list(builder.completion)


async def turns(fake: FakeEngine, prompts: list[list[int]], sampling: SamplingParams = SAMPLING) -> list[list[int]]:
    """First turns with these prompts, begun in one moment."""
    async with serving(fake) as addresses, engines(addresses, rpc.Security(), 2, 10) as pool:
        return await asyncio.gather(*(turn(pool, prompt, sampling) for prompt in prompts))


async def test_samples_that_begin_together_share_a_call() -> None:
    fake = Modern()
    assert await turns(fake, [[3, 4]] * 3) == [[5, 2], [5, 5, 2], [5, 5, 5, 2]]
    assert [(r.samples, r.steady, r.request_id[:2]) for r in fake.requests] == [(3, False, "g-")]


async def test_other_prompts_and_those_who_read_along_have_calls_of_their_own() -> None:
    fake = Modern()
    assert await turns(fake, [[3, 4], [3, 5], [3, 4]]) == [[5, 2], [5, 2], [5, 5, 2]]
    assert sorted(r.samples for r in fake.requests) == [0, 2]
    reads = SamplingParams(temperature=1, top_p=1, max_tokens=8, stop_token_ids=[2], stop_texts=["x"])
    fake = Modern()
    assert await turns(fake, [[3, 4]] * 3, reads) == [[5, 2]] * 3
    assert [(r.samples, r.steady) for r in fake.requests] == [(0, True)] * 3


async def test_a_replica_older_than_shared_calls_is_asked_for_each_sample() -> None:
    """It draws one, says so by ending, and is not asked again for several; nothing is drawn twice or counted as a
    failure."""
    fake = FakeEngine()
    async with serving(fake) as addresses, engines(addresses, rpc.Security(), 1, 10) as pool:
        assert await asyncio.gather(*(turn(pool, [3, 4]) for _ in range(4))) == [[7, 2]] * 4
        assert [r.samples for r in fake.requests] == [4, 0, 0, 0]
        assert await asyncio.gather(*(turn(pool, [3, 4]) for _ in range(2))) == [[7, 2]] * 2
    assert [r.samples for r in fake.requests] == [4, 0, 0, 0, 0, 0]


async def test_a_shared_call_that_breaks_goes_on_for_each_sample_from_its_own_tokens() -> None:
    class Breaking(Modern):
        async def Generate(
            self, request: generation_pb2.GenerateRequest, context: Any
        ) -> AsyncIterator[generation_pb2.GenerateResponse]:
            if request.samples == 3 and not self.requests:
                self.requests.append(request)
                for sample in (1, 2):
                    chunk = Tokens([6 + sample]).response()
                    chunk.sample = sample
                    yield chunk
                raise rpc.unavailable("died", retry_after=0.01)
            async for chunk in super().Generate(request, context):
                yield chunk

    fake = Breaking()
    assert await turns(fake, [[3, 4]] * 3) == [[5, 2], [7, 5, 2], [8, 5, 2]]
    assert [r.samples for r in fake.requests] == [3, 0, 0, 0]


async def test_a_chunk_of_no_sample_is_a_failed_attempt() -> None:
    class Wrong(FakeEngine):
        async def Generate(
            self, request: generation_pb2.GenerateRequest, context: Any
        ) -> AsyncIterator[generation_pb2.GenerateResponse]:
            chunk = Tokens([5]).response()
            chunk.sample = 9
            yield chunk

    with pytest.raises(GenerationFailed, match="a chunk of sample 9, of "):
        await turns(Wrong(), [[3, 4]] * 2)


async def test_a_call_that_is_shared_ends_when_nobody_is_left_who_reads_it() -> None:
    left = asyncio.Event()

    class Endless(FakeEngine):
        async def Generate(
            self, request: generation_pb2.GenerateRequest, context: Any
        ) -> AsyncIterator[generation_pb2.GenerateResponse]:
            self.requests.append(request)
            try:
                yield Tokens([5]).response()
                await asyncio.Event().wait()
            finally:
                left.set()

    fake = Endless()
    async with serving(fake) as addresses, engines(addresses, rpc.Security(), 2, 10) as pool:
        tasks = [asyncio.create_task(turn(pool, [3, 4])) for _ in range(3)]
        async with asyncio.timeout(10):
            while not fake.requests:
                await asyncio.sleep(0.01)
            for task in tasks[:2]:
                task.cancel()
            await asyncio.gather(*tasks[:2], return_exceptions=True)
            assert not left.is_set()
            tasks[2].cancel()
            await left.wait()
        await asyncio.gather(*tasks, return_exceptions=True)


class Spoiled:
    """A stub whose stream has, in place of a message, what gRPC makes of one that cannot be read."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def Generate(self, request: generation_pb2.GenerateRequest, timeout: float) -> Any:
        self.asked.append(request.samples)

        class Call:
            def __aiter__(self) -> AsyncIterator[Any]:
                return self.chunks()

            async def chunks(self) -> AsyncIterator[Any]:
                yield None

            def cancel(self) -> bool:
                return True

        return Call()


async def read(calls: Together) -> str:
    """How a sample that shares a call ends."""
    try:
        async with aclosing(calls.shared(generation_pb2.GenerateRequest(request_id="g"), 10)) as chunks:
            async for _ in chunks:
                pass
    except rpc.RpcError as error:
        return str(error)
    return "ended"


async def test_whoever_waits_hears_of_a_message_that_is_none() -> None:
    stub: Any = Spoiled()
    calls = Together(stub)
    async with asyncio.timeout(30):
        said = await asyncio.gather(read(calls), read(calls))
    assert all("INTERNAL: a chunk that is none of 2 samples'" in each for each in said)


async def test_a_group_larger_than_a_call_may_be_has_several() -> None:
    stub: Any = Spoiled()
    calls = Together(stub)
    async with asyncio.timeout(60):
        await asyncio.gather(*(read(calls) for _ in range(MOST + 2)))
    assert stub.asked == [MOST, 2]
