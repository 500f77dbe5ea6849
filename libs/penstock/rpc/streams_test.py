"""A stream that its caller leaves ends, and leaves nothing to be told."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc
from penstock.rpc import Server, channel


class Endless(reward_pb2_grpc.RewardServiceServicer):
    """Answers for ever; says when it ended."""

    Describe: ClassVar[Any]  # generated code answers it; only its stubs call it abstract
    Score: ClassVar[Any]

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def ScoreStream(self, request: pb.ScoreStreamRequest, context: Any) -> AsyncIterator[pb.ScoreStreamResponse]:
        answer = pb.ScoreStreamResponse(result=pb.ScoreResult(id="x" * (1 << 20)))
        try:
            while True:
                yield answer
        finally:
            self.ended.set()


async def test_a_cancelled_stream_is_closed_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        servicer = Endless()
        async with Server("endless") as server:
            server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
            await server.start()
            async with channel(server.address) as opened:
                stub = reward_pb2_grpc.RewardServiceStub(opened)
                call = stub.ScoreStream(pb.ScoreStreamRequest(request_id="r", items=[pb.ScoreItem(id="1")]), timeout=30)
                await anext(aiter(call))
                call.cancel()
                del call
                gc.collect()
                async with asyncio.timeout(10):
                    await servicer.ended.wait()
    gc.collect()
    assert not [r for r in caplog.records if r.levelname == "ERROR"], "among them: Failed to detach context"
