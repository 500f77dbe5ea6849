"""A refusal reaches its caller whatever the request it quotes."""

from __future__ import annotations

from typing import Any, ClassVar

import grpc
import pytest
from google.rpc import error_details_pb2

from penstock.reward.v1 import reward_pb2, reward_pb2_grpc
from penstock.rpc import Server, Violation, call, channel, invalid_argument
from penstock.rpc.conftest import request
from penstock.rpc.errors import Abort, InvalidArgument, Unavailable


@pytest.mark.parametrize("character", ["x", "é", "\U0001f4a9", "\ud800", "\0", "%"])
async def test_a_refusal_that_quotes_a_huge_request_is_shortened_and_arrives(character: str) -> None:
    class Quoting(reward_pb2_grpc.RewardServiceServicer):
        Describe: ClassVar[Any]  # generated code answers it; only its stubs call it abstract
        ScoreStream: ClassVar[Any]

        async def Score(self, request: Any, context: Any) -> reward_pb2.ScoreResponse:
            wrong = character * 100_000
            raise invalid_argument(f"no {wrong}", *[Violation(wrong, wrong, "some.rule")] * 32)

    async with Server("quoting") as server:
        server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, Quoting())
        await server.start()
        async with channel(server.address) as opened:
            with pytest.raises(InvalidArgument) as caught:
                await call(reward_pb2_grpc.RewardServiceStub(opened).Score(request("x"), timeout=10))
    assert caught.value.message.startswith("no ") and caught.value.message.endswith("…")
    assert len(caught.value.message.encode()) <= 1024
    assert 1 <= len(caught.value.violations) <= 8 and caught.value.violations[0].rule == "some.rule"


@pytest.mark.parametrize(
    ("seconds", "nanos", "said"),
    [(-1, 0, None), (0, -5, None), (-(2**40), -999, None), (0, 0, None), (2, 500_000_000, 2.5)],
)
async def test_a_server_that_says_to_come_back_before_now_says_nothing(
    seconds: int, nanos: int, said: float | None
) -> None:
    """A client that believed it would call thousands of times a second."""
    asked = error_details_pb2.RetryInfo()
    asked.retry_delay.seconds, asked.retry_delay.nanos = seconds, nanos

    class Hasty(reward_pb2_grpc.RewardServiceServicer):
        Describe: ClassVar[Any]
        ScoreStream: ClassVar[Any]

        async def Score(self, request: Any, context: Any) -> reward_pb2.ScoreResponse:
            raise Abort(grpc.StatusCode.UNAVAILABLE, "away", [asked])

    async with Server("hasty") as server:
        server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, Hasty())
        await server.start()
        async with channel(server.address) as opened:
            with pytest.raises(Unavailable) as caught:
                await call(reward_pb2_grpc.RewardServiceStub(opened).Score(request("x"), timeout=10))
    assert caught.value.retry_after == said
