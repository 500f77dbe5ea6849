"""Foreign services that could not be used are told before anything starts, each by what is wrong with it."""

import asyncio
import contextlib
import pathlib
import socket
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import grpc
import pytest

from penstock import rpc
from penstock.cli.foreign import unreachable
from penstock.recipes import Recipe, resolve
from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc
from penstock.sdk import Sample, reward
from penstock.sdk.serving import add_services
from penstock.tiny_model import make_model


@reward
def brevity(sample: Sample) -> float:
    return 1.0


class ScoreAlone(reward_pb2_grpc.RewardServiceServicer):
    """What a stock server of another language may offer."""

    Describe: ClassVar[Any]
    ScoreStream: ClassVar[Any]

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:
        return pb.ScoreResponse()


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("foreign")
    make_model(folder / "model", hidden=32, layers=1, intermediate=64)
    (folder / "rows.jsonl").write_text('{"prompt": "a"}\n')
    (folder / "token").write_text("right\n")
    return folder


def recipe(assets: pathlib.Path, address: str, name: str = "brevity", **credentials: str) -> Recipe:
    return resolve(
        {
            "run": "r1",
            "model": {"path": str(assets / "model")},
            "data": {"train": str(assets / "rows.jsonl")},
            "environment": {"name": "e", "rewards": [{"name": name, "address": address, "credentials": credentials}]},
            "algorithm": {"steps": 1},
        }
    )


@contextlib.asynccontextmanager
async def served(token: str | None = None) -> AsyncIterator[str]:
    async with rpc.Server("theirs", security=rpc.Security(token=token)) as server:
        add_services(server, [brevity], [])
        await server.start()
        yield server.address


async def test_a_service_that_serves_what_is_named_is_fine(assets: pathlib.Path) -> None:
    async with served() as address:
        assert await unreachable(recipe(assets, address)) == []
        (told,) = await unreachable(recipe(assets, address, name="length"))
        assert told == f"environment.rewards[0].name: {address} serves brevity, not 'length'"
    async with served("right") as address:
        assert await unreachable(recipe(assets, address, token_file=str(assets / "token"))) == []
        (told,) = await unreachable(recipe(assets, address))
        assert told.startswith(f"environment.rewards[0].credentials: {address} does not take them: UNAUTHENTICATED")


async def test_score_alone_is_enough(assets: pathlib.Path) -> None:
    server = grpc.aio.server()
    reward_pb2_grpc.add_RewardServiceServicer_to_server(ScoreAlone(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert await unreachable(recipe(assets, f"127.0.0.1:{port}")) == []
    await server.stop(0)


async def test_who_cannot_be_used_is_told_apart(assets: pathlib.Path) -> None:
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections, and says nothing
        closed.bind(("127.0.0.1", 0))
        cases = {
            f"127.0.0.1:{closed.getsockname()[1]}": "is refused: nothing listens there",
            f"127.0.0.1:{silent.getsockname()[1]}": "is no gRPC server, or wants TLS (credentials.authority)",
            "no-such-host.invalid:7000": "names no host: 'no-such-host.invalid' is unknown",
            "127.0.0.1:70000": "cannot be reached",
        }
        told = await asyncio.gather(*(unreachable(recipe(assets, address)) for address in cases))
    for (address, words), problems in zip(cases.items(), told, strict=True):
        assert len(problems) == 1 and problems[0].startswith(f"environment.rewards[0].address: {address} {words}")
