"""Episodes in this process and in worker processes, over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from penstock.common.v1 import common_pb2
from penstock.environment.v1 import environment_pb2 as pb
from penstock.environment.v1 import environment_pb2_grpc
from penstock.rpc import Server, call, channel
from penstock.rpc.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from penstock.sdk import check_environment
from penstock.sdk.environments import BadRow, Environment, Host, InProcess, Turn
from penstock.sdk.hosting import worker_process
from penstock.sdk.hosting.environment_service import EnvironmentService
from penstock.sdk.hosting.hostile_testing import HostileEnvironment
from penstock.sdk.hosting.isolation import load_environment
from penstock.sdk.hosting.worker_pool import Workers
from penstock.sdk.samples import Message

TARGET = "penstock.sdk.hosting.hostile_testing:HostileEnvironment"

if TYPE_CHECKING:
    Stub = environment_pb2_grpc.EnvironmentServiceAsyncStub


@asynccontextmanager
async def _serving(*hosts: Host, lease: float = 30, limit: int = 8) -> AsyncIterator[tuple[str, EnvironmentService]]:
    async with Server("environment") as server:
        service = EnvironmentService(hosts, lease_seconds=lease, max_episodes=limit)
        server.add(environment_pb2_grpc.add_EnvironmentServiceServicer_to_server, service)
        await server.start()
        yield server.address, service
        await service.close_all()


@asynccontextmanager
async def _hostile(isolated: bool = False, **settings: Any) -> AsyncIterator[Stub]:
    async with Workers(1) as workers:
        host: Host = InProcess(HostileEnvironment, "hostile", 0.6)
        if isolated:
            host = await load_environment(workers, TARGET, name="hostile", seconds=0.6)
        async with _serving(host, **settings) as (address, _), channel(address) as opened:
            yield environment_pb2_grpc.EnvironmentServiceStub(opened)


async def _reset(stub: Stub, request_id: str = "r", row: str = "{}") -> pb.ResetResponse:
    request = pb.ResetRequest(request_id=request_id, environment="hostile", row_json=row)
    return await call(stub.Reset(request, timeout=10))


class HalfMade(Environment):
    """Opens something, and cannot begin."""

    summary, max_turns = "cannot begin", 1
    opened: ClassVar[list[str]] = []

    def reset(self, row: Mapping[str, Any], seed: int) -> str:
        self.opened.append("a session")
        raise BadRow("no such task")

    def step(self, action: Message, finish_reason: str) -> Turn:
        raise NotImplementedError

    def close(self) -> None:
        self.opened.pop()


async def test_an_episode_that_cannot_begin_is_closed_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "resolve", lambda target: HalfMade)
    request = {"op": "reset", "target": "x:y", "row": {}, "seed": 0, "episode": "e"}
    assert await worker_process.Requests().answer(request) == {"bad_row": "no such task"}
    assert not HalfMade.opened


async def _step(stub: Stub, episode: str, content: str, request_id: str = "s") -> pb.StepResponse:
    action = common_pb2.Message(role="assistant", content=content)
    return await call(stub.Step(pb.StepRequest(request_id=request_id, episode=episode, action=action), timeout=10))


@pytest.mark.parametrize("isolated", [False, True])
async def test_a_repeated_step_is_not_played_twice(isolated: bool) -> None:
    async with _hostile(isolated) as stub:
        first, second = await asyncio.gather(_reset(stub), _reset(stub))
        assert first == second
        answers = await asyncio.gather(*(_step(stub, first.episode, "go") for _ in range(3)))
        assert [answer.messages[0].content for answer in answers] == ["1"] * 3
        assert (await _step(stub, first.episode, "go", "s2")).messages[0].content == "2"
        won = await _step(stub, first.episode, "win", "s3")
        assert won.done and won.reward == 1.0
        assert await _step(stub, first.episode, "win", "s3") == won
        with pytest.raises(FailedPrecondition):
            await _step(stub, first.episode, "go", "s4")


@pytest.mark.parametrize("isolated", [False, True])
async def test_an_environments_failure_ends_the_episode_as_invalid(isolated: bool) -> None:
    bad = ["raise", "hang", "nan", "nothing", "nonsense"] + (["die"] if isolated else [])
    async with _hostile(isolated) as stub:
        for content in bad:
            episode = (await _reset(stub, content)).episode
            answer = await _step(stub, episode, content)
            assert answer.done and answer.invalid_reason and not answer.HasField("reward"), content
            await call(stub.Close(pb.CloseRequest(episode=episode), timeout=5))
        assert (await _step(stub, (await _reset(stub, "ok")).episode, "win")).reward == 1.0


async def test_episodes_of_a_dead_process_end_and_new_ones_begin() -> None:
    async with _hostile(isolated=True) as stub:
        victim, culprit = (await _reset(stub, "a")).episode, (await _reset(stub, "b")).episode
        assert (await _step(stub, culprit, "die")).invalid_reason
        assert "replaced" in (await _step(stub, victim, "go")).invalid_reason
        assert (await _step(stub, (await _reset(stub, "c")).episode, "win")).reward == 1.0


async def test_an_episode_that_is_not_stepped_within_its_lease_is_closed() -> None:
    async with _serving(InProcess(HostileEnvironment, "hostile"), lease=0.2) as (address, service):
        async with channel(address) as opened:
            stub: Stub = environment_pb2_grpc.EnvironmentServiceStub(opened)
            episode = (await _reset(stub)).episode
            async with asyncio.timeout(5):
                while service._episodes:
                    await asyncio.sleep(0)
            with pytest.raises(NotFound, match="lease"):
                await _step(stub, episode, "go")


async def test_an_episode_without_end_is_ended() -> None:
    async with _hostile() as stub:
        episode = (await _reset(stub)).episode
        answers = [await _step(stub, episode, "go", str(turn)) for turn in range(4)]
        assert [answer.done for answer in answers] == [False, False, False, True]
        assert answers[-1].invalid_reason


async def test_what_cannot_begin_says_why() -> None:
    async with _hostile(limit=1) as stub:
        with pytest.raises(InvalidArgument) as caught:
            await _reset(stub, "a", '{"bad": true}')
        assert caught.value.violations[0].field == "row_json"
        with pytest.raises(InvalidArgument):
            await _reset(stub, "b", "[]")
        with pytest.raises(Unavailable, match="RuntimeError"):
            await _reset(stub, "c", '{"raise": true}')
        await _reset(stub, "d")
        with pytest.raises(ResourceExhausted):
            await _reset(stub, "e")


async def test_a_good_environment_conforms() -> None:
    async with _serving(InProcess(HostileEnvironment, "hostile")) as (address, _):
        report = await check_environment(address)
    assert report.passed, [check for check in report.checks if not check.passed]


async def test_no_more_episodes_are_open_than_allowed_however_many_begin_at_once() -> None:
    gate = asyncio.Event()

    class Slow(InProcess):
        async def reset(self, row: Mapping[str, Any], seed: int) -> tuple[str, Sequence[Message]]:
            await gate.wait()
            return await super().reset(row, seed)

    async with _serving(Slow(HostileEnvironment, "hostile", 0.6), limit=3) as (address, _), channel(address) as opened:
        stub = environment_pb2_grpc.EnvironmentServiceStub(opened)
        begun = [asyncio.create_task(_reset(stub, f"r{i}")) for i in range(12)]
        ending = iter(asyncio.as_completed(begun))
        for _ in range(9):
            with pytest.raises(ResourceExhausted):
                await next(ending)
        gate.set()
        ended = await asyncio.gather(*begun, return_exceptions=True)
        assert sum(isinstance(each, pb.ResetResponse) for each in ended) == 3
