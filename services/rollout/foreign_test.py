"""A foreign reward sees the credentials that the recipe names for it, and never the run's."""

import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import grpc
import pytest

from penstock import rpc
from penstock.recipes.sections import Credentials, Reward
from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc
from services.rollout.scoring import scoring

RUN = rpc.Security(token="the run's own")


class Spy(reward_pb2_grpc.RewardServiceServicer):
    """Scores 1, and keeps what callers show."""

    # Optional parts of the contract, which it does not offer.
    Describe: ClassVar[Any]
    ScoreStream: ClassVar[Any]

    def __init__(self) -> None:
        self.shown: list[str] = []

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:
        metadata = dict(context.invocation_metadata())
        self.shown.append(str(metadata.get("authorization", "")))
        return pb.ScoreResponse(
            results=[pb.ScoreResult(id=item.id, score=pb.Score(value=1.0)) for item in request.items]
        )


@contextlib.asynccontextmanager
async def served(spy: Spy) -> AsyncIterator[str]:
    server = grpc.aio.server()
    reward_pb2_grpc.add_RewardServiceServicer_to_server(spy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.mark.parametrize(
    ("reward", "shown"),
    [
        (lambda address, token: Reward(name="r", address=address), ""),
        (
            lambda address, token: Reward(name="r", address=address, credentials=Credentials(token_file=token)),
            "Bearer theirs",
        ),
        (lambda address, token: Reward(name="r"), "Bearer the run's own"),
    ],
    ids=["foreign", "foreign-with-a-token", "our-own"],
)
async def test_each_service_sees_its_own_credentials_alone(
    tmp_path: pathlib.Path, reward: Callable[[str, str], Reward], shown: str
) -> None:
    (tmp_path / "token").write_text("theirs\n")
    spy = Spy()
    async with (
        served(spy) as address,
        scoring([reward(address, str(tmp_path / "token"))], [address], RUN) as scorer,
    ):
        await scorer.score(pb.ScoreItem(id="0", completion="a"))
    assert set(spy.shown) == {shown}
