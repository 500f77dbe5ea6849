"""GenerationService over real gRPC with a fake engine: limits, deadlines and error codes as generation.proto says."""

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.generation.v1 import generation_pb2 as pb
from penstock.generation.v1 import generation_pb2_grpc
from penstock.trajectories import from_float32s, from_int32s, int32s
from penstock.trajectory.v1 import trajectory_pb2
from services.generation.engine import EngineSettings
from services.generation.engine_host import EngineHost
from services.generation.fake_engine_testing import FakeEngine
from services.generation.server import QUEUE_FACTOR, Generation, vocabulary_of

CODES = grpc.StatusCode
SETTINGS = EngineSettings("model", max_running=2, max_context=32)
VOCABULARY = 64


class Running:
    """A served host whose engine holds version 5."""

    def __init__(self, channel: grpc.aio.Channel, host: EngineHost, engine: FakeEngine, servicer: Generation) -> None:
        self.channel, self.host, self.engine, self.servicer = channel, host, engine, servicer
        self.stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)

    async def generate(self, request: pb.GenerateRequest, timeout: float = 10) -> list[pb.GenerateResponse]:
        with rpc.translated():
            return [chunk async for chunk in self.stub.Generate(request, timeout=timeout)]

    async def refused(self, request: pb.GenerateRequest, timeout: float = 10) -> rpc.RpcError:
        with pytest.raises(rpc.RpcError) as error:
            await self.generate(request, timeout)
        return error.value

    async def until(self, condition: Callable[[pb.GetEngineResponse], bool]) -> pb.GetEngineResponse:
        async with asyncio.timeout(10):
            while not condition(answer := await rpc.call(self.stub.GetEngine(pb.GetEngineRequest()))):
                await asyncio.sleep(0.005)
        return answer


@pytest_asyncio.fixture
async def running() -> AsyncIterator[Running]:
    engine = FakeEngine(PolicyVersion(epoch=1, step=5))
    host = EngineHost(SETTINGS, "g0")
    host._engine = engine  # type: ignore[assignment]
    host.state = pb.GetEngineResponse.STATE_READY
    await host.gate.open(5)
    async with rpc.Server("generation") as server:
        adder = generation_pb2_grpc.add_GenerationServiceServicer_to_server
        servicer = Generation(host, VOCABULARY)
        server.add(adder, servicer)
        await server.start()
        async with rpc.channel(server.address) as channel:
            yield Running(channel, host, engine, servicer)


def request(prompt: list[int] | None = None, *, max_tokens: int = 3, **more: Any) -> pb.GenerateRequest:
    tokens = [3, 10, 2] if prompt is None else prompt
    sampling = SamplingParams(temperature=1, top_p=1, max_tokens=max_tokens)
    fields: dict[str, Any] = {"request_id": "r", "sampling": sampling, "prompt_token_count": len(tokens)} | more
    return pb.GenerateRequest(prompt_tokens=int32s(tokens), **fields)


def scoring(tokens: list[int], first: int = 1, **more: Any) -> pb.ScoreTokensRequest:
    fields: dict[str, Any] = {"request_id": "s", "token_count": len(tokens), "first": first} | more
    return pb.ScoreTokensRequest(tokens=int32s(tokens), **fields)


async def test_given_tokens_are_scored_from_the_first_one_asked_for(running: Running) -> None:
    answer = await rpc.call(running.stub.ScoreTokens(scoring([3, 10, 2, 5], 2), timeout=10))
    assert from_float32s(answer.logprobs).tolist() == [-2.0, -5.0] and answer.count == 2
    assert (answer.version.epoch, answer.version.step) == (1, 5)


async def test_the_likeliest_tokens_of_every_position_are_given_when_asked_for(running: Running) -> None:
    answer = await rpc.call(running.stub.ScoreTokens(scoring([3, 10, 2, 5], 2, top=3), timeout=10))
    assert from_int32s(answer.top_tokens).tolist() == [0, 1, 2, 0, 1, 2]
    assert from_float32s(answer.top_logprobs).tolist() == [0.0, -1.0, -2.0, 0.0, -1.0, -2.0]


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (scoring([3, 10], top=65), CODES.INVALID_ARGUMENT, "top"),
        (scoring([3, 10], 2), CODES.INVALID_ARGUMENT, "first must be below token_count"),
        (scoring([3, 10], 0), CODES.INVALID_ARGUMENT, "first"),
        (scoring([3, 10], token_count=3), CODES.INVALID_ARGUMENT, "token_count int32 values"),
        (scoring([3, 64]), CODES.INVALID_ARGUMENT, "tokens: holds id 64; the model's vocabulary is 0..63"),
        (scoring([3] * 32), CODES.OUT_OF_RANGE, "32 \\+ 1 tokens to draw exceed the engine's context of 32"),
    ],
)
async def test_tokens_that_cannot_be_scored_are_refused(
    running: Running, asked: pb.ScoreTokensRequest, code: grpc.StatusCode, words: str
) -> None:
    with pytest.raises(rpc.RpcError, match=words) as error:
        await rpc.call(running.stub.ScoreTokens(asked, timeout=10))
    assert error.value.code == code


async def test_a_dead_engine_scores_nothing_and_says_so(running: Running) -> None:
    running.engine.alive = False
    with pytest.raises(rpc.RpcError) as error:
        await rpc.call(running.stub.ScoreTokens(scoring([3, 10]), timeout=10))
    assert error.value.code == CODES.UNAVAILABLE and error.value.reason == "ENGINE_DIED"


async def test_chunks_carry_tokens_logprobs_versions_and_one_finish_reason(running: Running) -> None:
    chunks = await running.generate(request(max_tokens=3))
    assert [t for c in chunks for t in from_int32s(c.tokens).tolist()] == [7, 7, 7]
    assert [p for c in chunks for p in from_float32s(c.logprobs).tolist()] == [-0.5] * 3
    assert {(s.first, s.version.epoch, s.version.step) for c in chunks for s in c.version_segments} == {(0, 1, 5)}
    assert [c.finish_reason for c in chunks] == [0, 0, trajectory_pb2.FINISH_REASON_LENGTH]


async def test_what_breaks_a_stated_limit_is_named(running: Running) -> None:
    cases = [
        (request([]), "prompt_tokens"),
        (request(prompt_token_count=2), ""),
        (request(request_id=""), "request_id"),
        (request(request_id="r" * 257), "request_id"),
        (request(max_tokens=0), "sampling.max_tokens"),
        (request(sampling=None), "sampling"),
        (request([3, -1]), "prompt_tokens"),
        (request([3, VOCABULARY]), "prompt_tokens"),
        (request(sampling=SamplingParams(temperature=-1, top_p=1, max_tokens=1)), "sampling.temperature"),
        (request(sampling=SamplingParams(temperature=float("nan"), top_p=1, max_tokens=1)), "sampling.temperature"),
        (request(sampling=SamplingParams(temperature=1, top_p=0, max_tokens=1)), "sampling.top_p"),
    ]
    for wrong, field in cases:
        error = await running.refused(wrong)
        assert error.code == CODES.INVALID_ARGUMENT
        assert field in {v.field for v in error.violations}
    odd = request()
    odd.prompt_tokens += b"\0"
    assert (await running.refused(odd)).code == CODES.INVALID_ARGUMENT
    assert running.engine.requests == 0


async def test_malformed_bytes_are_invalid_on_every_rpc(running: Running) -> None:
    service = "/penstock.generation.v1.GenerationService/"
    raw: Any = running.channel  # its stubs take a request's type from the serialiser alone, and here is none
    with pytest.raises(rpc.RpcError) as error, rpc.translated():
        async for _ in raw.unary_stream(service + "Generate")(b"\xff\xff"):
            continue
    assert error.value.code == CODES.INVALID_ARGUMENT
    for name in ("GetEngine", "Drain", "Resume"):
        with pytest.raises(rpc.RpcError) as error:
            await rpc.call(raw.unary_unary(service + name)(b"\xff\xff"))
        assert error.value.code == CODES.INVALID_ARGUMENT
    assert len(await running.generate(request())) == 3  # it lives


async def test_a_request_beyond_the_context_is_told_the_limit(running: Running) -> None:
    error = await running.refused(request([3] * 20, max_tokens=13))
    assert (error.code, error.reason, error.metadata) == (CODES.OUT_OF_RANGE, "CONTEXT", {"max_context": "32"})
    assert len(await running.generate(request([3] * 20, max_tokens=12))) == 12


async def test_a_version_that_does_not_come_ends_at_the_deadline(running: Running) -> None:
    error = await running.refused(request(min_step=6), timeout=0.3)
    assert error.code == CODES.DEADLINE_EXCEEDED
    waiting = asyncio.create_task(running.generate(request(min_step=6)))
    await running.until(lambda e: e.waiting == 1)
    running.engine.version = PolicyVersion(epoch=1, step=6)
    await running.host.gate.open(6)
    assert (await waiting)[0].version_segments[0].version.step == 6


async def test_a_pin_that_was_passed_is_refused(running: Running) -> None:
    error = await running.refused(request(pinned_step=4))
    assert (error.code, error.reason) == (CODES.FAILED_PRECONDITION, "PIN_MISSED")
    assert len(await running.generate(request(pinned_step=5))) == 3


async def test_more_than_a_queue_is_refused_and_places_come_back(running: Running) -> None:
    running.engine.valve.clear()
    limit = QUEUE_FACTOR * SETTINGS.max_running
    taken = [asyncio.create_task(running.generate(request())) for _ in range(limit)]
    engine = await running.until(lambda e: e.running + e.waiting == limit)
    assert (engine.running, engine.max_running, engine.max_context) == (2, 2, 32)
    error = await running.refused(request())
    assert (error.code, error.reason) == (CODES.RESOURCE_EXHAUSTED, "QUEUE_FULL") and error.retry_after
    for each in taken[:3]:
        each.cancel()
    await asyncio.gather(*taken[:3], return_exceptions=True)
    await running.until(lambda e: e.running + e.waiting == limit - 3)
    running.engine.valve.set()
    assert [len(chunks) for chunks in await asyncio.gather(*taken[3:])] == [3] * (limit - 3)
    assert (await running.until(lambda e: e.running + e.waiting == 0)).tokens_generated >= 3 * (limit - 3)


async def test_a_draining_replica_finishes_what_it_has_and_takes_nothing_new(running: Running) -> None:
    running.engine.valve.clear()
    taken = asyncio.create_task(running.generate(request()))
    await running.until(lambda e: e.running == 1)
    for _ in range(2):
        assert (await rpc.call(running.stub.Drain(pb.DrainRequest()))).running == 1
    error = await running.refused(request())
    assert (error.code, error.reason) == (CODES.UNAVAILABLE, "DRAINING")
    await running.until(lambda e: e.state == pb.GetEngineResponse.STATE_DRAINING)
    running.engine.valve.set()
    assert len(await taken) == 3
    await rpc.call(running.stub.Resume(pb.ResumeRequest()))
    assert len(await running.generate(request())) == 3


async def test_a_replica_that_others_have_written_off_takes_nothing_new(running: Running) -> None:
    running.servicer.refuse(True)
    error = await running.refused(request())
    assert (error.code, error.reason) == (CODES.UNAVAILABLE, "DRAINING") and "cannot announce itself" in str(error)
    running.servicer.refuse(False)
    assert len(await running.generate(request())) == 3


async def test_a_dead_engine_is_unavailable_with_a_time_to_come_back(running: Running) -> None:
    running.engine.alive = False
    error = await running.refused(request())
    assert (error.code, error.reason) == (CODES.UNAVAILABLE, "ENGINE_DIED") and error.retry_after
    assert running.host._wake.is_set()  # the host looks at once


def test_a_directory_that_is_no_model_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 99}))
    assert vocabulary_of(str(tmp_path)) == 99
    for text in ("{", "{}", "[]", '{"vocab_size": "many"}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="is not a Hugging Face model directory"):
            vocabulary_of(str(tmp_path))
    with pytest.raises(ValueError, match="is not a Hugging Face model directory"):
        vocabulary_of(str(tmp_path / "none"))


async def test_the_samples_of_one_request_are_told_apart_and_each_has_its_end(running: Running) -> None:
    chunks = await running.generate(request(max_tokens=3, samples=5))
    for sample in range(5):
        own = [c for c in chunks if c.sample == sample]
        assert [t for c in own for t in from_int32s(c.tokens).tolist()] == [7, 7, 7]
        assert [c.finish_reason for c in own] == [0, 0, trajectory_pb2.FINISH_REASON_LENGTH]
    assert len(chunks) == 15


async def test_each_sample_of_a_request_counts_as_one(running: Running) -> None:
    running.engine.valve.clear()
    taken = asyncio.create_task(running.generate(request(samples=6)))
    await running.until(lambda e: e.running + e.waiting == 6)
    others = [asyncio.create_task(running.generate(request())) for _ in range(2)]
    await running.until(lambda e: e.running + e.waiting == 8)
    assert (await running.refused(request())).reason == "QUEUE_FULL"
    taken.cancel()
    await running.until(lambda e: e.running + e.waiting == 2)
    assert running.engine.requests == 2, "whoever leaves takes all of its samples along"
    running.engine.valve.set()
    await asyncio.gather(*others)


async def test_a_caller_older_than_samples_gets_one(running: Running) -> None:
    assert {c.sample for c in await running.generate(request())} == {0}


async def test_samples_have_seeds_of_their_own(running: Running) -> None:
    seen: list[int] = []
    drawn = running.engine.generate

    def generate(name: str, prompt: Any, sampling: SamplingParams, *others: Any) -> Any:
        seen.append(sampling.seed)
        return drawn(name, prompt, sampling, *others)

    running.engine.generate = generate  # type: ignore[method-assign, assignment]
    asked = request(samples=3)
    asked.sampling.seed = 7
    await running.generate(asked)
    assert seen == [7, 8, 9]


async def test_the_first_sample_has_the_prompts_rows_and_the_others_begin_at_its_last_token(running: Running) -> None:
    seen: list[Any] = []
    drawn = running.engine.generate

    def generate(name: str, prompt: Any, sampling: SamplingParams, steady: bool, routes_from: int | None) -> Any:
        seen.append(routes_from)
        return drawn(name, prompt, sampling, steady, routes_from)

    running.engine.generate = generate  # type: ignore[method-assign, assignment]
    length = request().prompt_token_count
    for samples, first in ((0, 1), (3, 0), (2, length)):
        asked = request(samples=samples)
        asked.routes_from = first
        await running.generate(asked)
    await running.generate(request())
    assert seen == [1, 0, length - 1, length - 1, length, length, None]
    asked.routes_from = length + 1
    assert "routes_from must be at most prompt_token_count" in str(await running.refused(asked))
    said = await rpc.call(running.stub.GetEngine(pb.GetEngineRequest()))
    assert (said.route_layers, said.route_top, said.route_experts) == (0, 0, 0), "it records none"
