"""A server as gRPC's own library makes it, with `Score` and nothing else, keeps the contract."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import grpc
import pytest

from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc
from penstock.sdk import check_reward

OPTIONAL = {"describes itself", "is healthy", "streams the same answers"}


class Stock(reward_pb2_grpc.RewardServiceServicer):
    """Scores by the completion's length, or as told."""

    Describe: ClassVar[Any]
    ScoreStream: ClassVar[Any]

    def __init__(self, value: Callable[[pb.ScoreItem], float]) -> None:
        self._value = value

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:
        if request.reward not in ("", "stock"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "only stock")
        if not request.items:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no items")
        return pb.ScoreResponse(results=[self._result(item) for item in request.items])

    def _result(self, item: pb.ScoreItem) -> pb.ScoreResult:
        if item.row_json.startswith("{not"):
            return pb.ScoreResult(id=item.id, invalid=pb.Invalid(reason="no row"))
        return pb.ScoreResult(id=item.id, score=pb.Score(value=self._value(item)))


@asynccontextmanager
async def serving(value: Callable[[pb.ScoreItem], float]) -> AsyncIterator[str]:
    server = grpc.aio.server()
    reward_pb2_grpc.add_RewardServiceServicer_to_server(Stock(value), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize("name", ["", "stock"])
async def test_score_alone_is_enough_and_what_is_left_out_is_said(name: str) -> None:
    async with serving(lambda item: len(item.completion)) as address:
        report = await check_reward(address, reward=name)
    assert report.passed, [check for check in report.checks if not check.passed]
    assert {check.name for check in report.checks if not check.offered} == OPTIONAL


async def test_a_broken_promise_is_still_found() -> None:
    async with serving(lambda _: math.nan) as address:
        report = await check_reward(address)
    assert "gives a finite score or a reason" in {check.name for check in report.checks if not check.passed}
