"""A servicer with every kind of misbehaviour, and a proxy that cuts connections in every way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest_asyncio

from penstock.reward.v1 import reward_pb2, reward_pb2_grpc
from penstock.rpc import Server, resource_exhausted, unavailable
from penstock.weights.v1 import weights_pb2_grpc

METHOD = "/penstock.reward.v1.RewardService/Score"


def request(completion: str, item: str = "1") -> reward_pb2.ScoreRequest:
    return reward_pb2.ScoreRequest(request_id="r", items=[reward_pb2.ScoreItem(id=item, completion=completion)])


class Misbehaving(reward_pb2_grpc.RewardServiceServicer):
    def __init__(self) -> None:
        self.calls = 0
        self.remaining: float | None = None
        self.traceparent = ""
        self.entered = asyncio.Event()

    async def Score(self, request: reward_pb2.ScoreRequest, context: Any) -> reward_pb2.ScoreResponse:
        self.calls += 1
        self.remaining = context.time_remaining()
        self.traceparent = dict(context.invocation_metadata()).get("traceparent", "")
        self.entered.set()
        match request.items[0].completion:
            case "flaky" if self.calls < 3:
                raise unavailable("try again", retry_after=0.01)
            case "overload":
                raise resource_exhausted("queue full", retry_after=2.5, reason="REWARD_QUEUE_FULL")
            case "bug":
                raise KeyError("secret text")
            case "slow":
                await asyncio.sleep(0.8)
            case "hang":
                await asyncio.Event().wait()
        return reward_pb2.ScoreResponse(results=[reward_pb2.ScoreResult(id=request.items[0].id)])

    async def ScoreStream(
        self, request: reward_pb2.ScoreStreamRequest, context: Any
    ) -> AsyncIterator[reward_pb2.ScoreStreamResponse]:
        self.remaining = context.time_remaining()
        for item in request.items:
            if item.completion == "bug":
                raise KeyError("secret text")
            if item.completion == "hang":
                await asyncio.Event().wait()
            yield reward_pb2.ScoreStreamResponse(result=reward_pb2.ScoreResult(id=item.id))

    def Describe(self, request: reward_pb2.DescribeRequest, context: Any) -> reward_pb2.DescribeResponse:
        """A plain function that blocks, as reward authors write them."""
        time.sleep(0.6)
        return reward_pb2.DescribeResponse()


class RawWeights(weights_pb2_grpc.WeightSyncServiceServicer):
    """Echoes the size of raw pushes and streams raw bytes."""

    # Nobody asks it these: generated code answers UNIMPLEMENTED, and only its stubs call them abstract.
    AbortVersion: ClassVar[Any]
    BeginVersion: ClassVar[Any]
    CommitVersion: ClassVar[Any]
    DecideVersion: ClassVar[Any]
    FetchDifference: ClassVar[Any]
    FetchTensors: ClassVar[Any]
    GetManifest: ClassVar[Any]
    HoldVersions: ClassVar[Any]
    OpenBulk: ClassVar[Any]
    ListVersions: ClassVar[Any]
    OpenPush: ClassVar[Any]
    PushDifference: ClassVar[Any]
    ReleaseHold: ClassVar[Any]
    ReportApplied: ClassVar[Any]
    WatchVersions: ClassVar[Any]

    async def PushTensors(self, requests: Any, context: Any) -> Any:
        total = 0
        async for chunk in requests:
            assert isinstance(chunk, bytes)
            total += len(chunk)
        return str(total).encode()


@pytest_asyncio.fixture
async def servicer() -> Misbehaving:
    return Misbehaving()


@pytest_asyncio.fixture
async def server(servicer: Misbehaving) -> AsyncIterator[Server]:
    async with Server("test-1", reflection=True, default_seconds=0.5, stream_seconds=0.5) as running:
        running.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
        await running.start()
        yield running


class FaultProxy:
    """Forwards TCP to `target`; `black_hole` keeps connections open and silent."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def black_hole(self) -> None:
        self._flowing.clear()

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        for source, sink in ((reader, upstream_writer), (upstream_reader, writer)):
            self._tasks.add(asyncio.create_task(self._pipe(source, sink)))

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            return
        finally:
            sink.transport.abort()
