"""A weight_sync over a socket, and versions to push into it."""

import asyncio
import pathlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import pytest_asyncio

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.tensors import CHUNK_BYTES, make_manifest
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.server import RAW_REQUESTS, RAW_RESPONSES, WeightSync
from services.weight_sync.store import VersionStore

SERVICE = "/penstock.weights.v1.WeightSyncService/"
SIZE = 2 * CHUNK_BYTES + 4096
CODES = grpc.StatusCode


def whole(step: int) -> bytes:
    return bytes([step]) * SIZE


def manifest(step: int, epoch: int = 1) -> pb.Manifest:
    half, data = SIZE // 2, whole(step)
    return make_manifest(
        epoch, step, [("a", "bfloat16", [half // 2], data[:half]), ("b", "float32", [half // 4], data[half:])]
    )


def messages(version: PolicyVersion, data: bytes) -> Iterator[pb.PushTensorsRequest]:
    yield pb.PushTensorsRequest(version=version)
    for start in range(0, len(data), CHUNK_BYTES):
        yield pb.PushTensorsRequest(data=data[start : start + CHUNK_BYTES])


async def push(stub: Any, step: int, epoch: int = 1) -> PolicyVersion:
    m = manifest(step, epoch)
    await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=m)))
    answer = await rpc.call(stub.PushTensors(messages(m.version, whole(step))))
    assert answer.received == SIZE
    await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=m.version)))
    return m.version


@pytest.fixture
def store(tmp_path: pathlib.Path) -> VersionStore:
    return VersionStore(tmp_path, keep=2)


@pytest_asyncio.fixture
async def channel(store: VersionStore) -> AsyncIterator[grpc.aio.Channel]:
    async with rpc.Server("weight_sync") as server:
        server.add(
            weights_pb2_grpc.add_WeightSyncServiceServicer_to_server,
            WeightSync(store),
            raw_requests=RAW_REQUESTS,
            raw_responses=RAW_RESPONSES,
        )
        await server.start()
        async with rpc.channel(server.address, default_seconds=10, stream_seconds=20) as opened:
            yield opened


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return weights_pb2_grpc.WeightSyncServiceStub(channel)


def raw(channel: grpc.aio.Channel) -> Any:
    """The channel, for bytes: its stubs take the type of a request from the serialiser alone, and here is none."""
    return channel


async def refusal(call: Any) -> rpc.RpcError:
    with pytest.raises(rpc.RpcError) as error:
        await rpc.call(call)
    return error.value


async def stream_refusal(call: Any) -> rpc.RpcError:
    with pytest.raises(rpc.RpcError) as error, rpc.translated():
        async for _ in call:
            continue
    return error.value


@asynccontextmanager
async def watching(stub: Any, receiver: str = "g") -> AsyncIterator[asyncio.Queue[int]]:
    """Steps as a receiver hears of them."""
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def listen() -> None:
        async for told in stub.WatchVersions(pb.WatchVersionsRequest(receiver=receiver)):
            heard.put_nowait(told.version.step)

    listening = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def next_step(heard: "asyncio.Queue[int]") -> int:
    return await asyncio.wait_for(heard.get(), 10)
