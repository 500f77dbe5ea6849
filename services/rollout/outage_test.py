"""Another team's service that is away pauses what waits for it, by name, and the run goes on when it is back."""

import asyncio
import contextlib
import os
import pathlib
import signal
import sys
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, ClassVar

import grpc
import pytest

from penstock import rpc
from penstock.bus.embedded import free_ports
from penstock.environment.v1 import environment_pb2, environment_pb2_grpc
from penstock.recipes.sections import Reward
from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc
from penstock.telemetry.waits import Wait, snapshot
from penstock.testing.freezing import freeze
from services.rollout import episode
from services.rollout.failures import EnvironmentFailed, RewardFailed
from services.rollout.frozen import breath_of
from services.rollout.scoring import scoring, total
from services.rollout.tools import Deadline, Place

SECONDS = 5.0  # the reward's own time
PLAIN = """
import sys, time
from concurrent import futures
import grpc
from penstock.reward.v1 import reward_pb2 as pb, reward_pb2_grpc

class Theirs(reward_pb2_grpc.RewardServiceServicer):
    def Score(self, request, context):
        if request.items[0].completion == "slow":
            time.sleep(600)
        return pb.ScoreResponse(results=[pb.ScoreResult(id=i.id, score=pb.Score(value=1.0)) for i in request.items])

server = grpc.server(futures.ThreadPoolExecutor(1))
reward_pb2_grpc.add_RewardServiceServicer_to_server(Theirs(), server)
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
"""
"""A stock server with one thread, which a score keeps busy."""
PLAY = """
import sys
from concurrent import futures
import grpc
from penstock.environment.v1 import environment_pb2 as pb, environment_pb2_grpc

class Theirs(environment_pb2_grpc.EnvironmentServiceServicer):
    def Reset(self, request, context):
        return pb.ResetResponse(episode="e")

server = grpc.server(futures.ThreadPoolExecutor(1))
environment_pb2_grpc.add_EnvironmentServiceServicer_to_server(Theirs(), server)
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
"""


class Theirs(reward_pb2_grpc.RewardServiceServicer):
    """Scores 1, and offers nothing beside."""

    Describe: ClassVar[Any]
    ScoreStream: ClassVar[Any]

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:
        return pb.ScoreResponse(results=[pb.ScoreResult(id=i.id, score=pb.Score(value=1.0)) for i in request.items])


@contextlib.asynccontextmanager
async def there(address: str) -> AsyncIterator[None]:
    """The service is there for the block, and gone after it, connections and all."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    reward_pb2_grpc.add_RewardServiceServicer_to_server(Theirs(), server)
    assert server.add_insecure_port(address)
    await server.start()
    yield
    await server.stop(None)


async def away(on: str, seconds: float, waiting: asyncio.Task[Any]) -> Wait:
    """What a task waits for, once it has for so long. Raises what the task does, should it end."""
    while True:
        assert not waiting.done(), waiting.result()
        for wait in snapshot():
            if wait.on == on and time.time() - wait.since > seconds:
                return wait
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("foreign", [True, False])
async def test_items_wait_by_name_for_a_reward_that_went_away_and_are_scored_when_it_is_back(foreign: bool) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    reward = Reward(name="theirs", address=address if foreign else None, timeout_seconds=SECONDS)
    item = pb.ScoreItem(id="0", completion="x")
    limits = (3600.0, 0.0) if foreign else (0.0, 3600.0)
    async with asyncio.timeout(60), scoring([reward], [address], rpc.Security(), None, None, *limits) as scorer:
        async with there(address):
            assert total((await scorer.score(item)).components) == 1.0
        waiting = asyncio.create_task(scorer.score(item))
        wait = await away(f"reward {address}", SECONDS, waiting)
        assert wait.what == "1 scores of theirs" and not waiting.done(), "longer than the reward's own time"
        async with there(address):
            assert total((await waiting).components) == 1.0


@pytest.mark.parametrize("foreign", [True, False])
async def test_an_outage_ends_another_teams_by_its_limit_and_ours_by_the_groups(foreign: bool) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    reward = Reward(name="r", address=address if foreign else None, timeout_seconds=0.2)
    limits = (0.2, 3600.0) if foreign else (3600.0, 0.2)
    async with asyncio.timeout(60), scoring([reward], [address], rpc.Security(), None, None, *limits) as scorer:
        with pytest.raises(RewardFailed, match=r"r: (UNAVAILABLE|DEADLINE_EXCEEDED)"):
            await scorer.score(pb.ScoreItem(id="0", completion="x"))


async def test_items_wait_for_a_foreign_reward_that_is_frozen(tmp_path: pathlib.Path) -> None:
    """Its kernel takes connections and its process answers nothing: that is an outage, however short its own time is.
    One that is busy greets a new connection all the same, and is only slow."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    (tmp_path / "theirs.py").write_text(PLAIN)
    process = await asyncio.create_subprocess_exec(sys.executable, str(tmp_path / "theirs.py"), address)
    reward = Reward(name="theirs", address=address, timeout_seconds=1.0)
    try:
        async with asyncio.timeout(120), scoring([reward], [], rpc.Security(), outage=3600) as scorer:
            while True:
                with contextlib.suppress(RewardFailed):
                    assert total((await scorer.score(pb.ScoreItem(id="0", completion="quick"))).components) == 1.0
                    break
            freeze(process.pid)
            waiting = asyncio.create_task(scorer.score(pb.ScoreItem(id="0", completion="quick")))
            await away(f"reward {address}", 5.0, waiting)
            assert not waiting.done(), "three times its own time and more"
            os.kill(process.pid, signal.SIGCONT)
            assert total((await waiting).components) == 1.0
            with pytest.raises(RewardFailed, match="DEADLINE_EXCEEDED"):
                await scorer.score(pb.ScoreItem(id="0", completion="slow"))
    finally:
        process.kill()
        await process.wait()


async def test_an_episode_waits_for_a_foreign_environment_that_is_frozen(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode, "ENVIRONMENT_SECONDS", 1.0)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    (tmp_path / "theirs.py").write_text(PLAY)
    process = await asyncio.create_subprocess_exec(sys.executable, str(tmp_path / "theirs.py"), address)
    tools: Any = SimpleNamespace(environment=SimpleNamespace(name="theirs"), outage=3600.0)
    try:
        async with asyncio.timeout(120), rpc.channel(address, transport=rpc.FOREIGN) as channel:
            stub = environment_pb2_grpc.EnvironmentServiceStub(channel)
            place = Place(address, stub, breathes=breath_of(address, rpc.Security()))

            async def reset() -> environment_pb2.ResetResponse:
                asked = environment_pb2.ResetRequest(environment="theirs")
                deadline = Deadline(time.monotonic() + 60)
                return await episode._ask(tools, place, "Reset", lambda left: stub.Reset(asked, timeout=left), deadline)

            while True:  # until its program has started
                with contextlib.suppress(EnvironmentFailed):
                    assert (await reset()).episode == "e"
                    break
            freeze(process.pid)
            waiting = asyncio.create_task(reset())
            await away(f"environment {address}", 5.0, waiting)
            assert not waiting.done(), "five times the time of a call"
            os.kill(process.pid, signal.SIGCONT)
            assert (await waiting).episode == "e"
    finally:
        process.kill()
        await process.wait()
