"""A version is handed over until it is READY: what passes is repeated, what is refused for good is not."""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch

from penstock import rpc
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.learner.leader import publishing

TENSORS = [("a", torch.arange(6.0).view(2, 3)), ("b", torch.zeros(0))]


class Store(weights_pb2_grpc.WeightSyncServiceServicer):
    """Fails each call of BeginVersion with the next error, then takes what comes."""

    # Nobody asks it these: generated code answers UNIMPLEMENTED, and only its stubs call them abstract.
    AbortVersion: ClassVar[Any]
    FetchTensors: ClassVar[Any]
    GetManifest: ClassVar[Any]
    HoldVersions: ClassVar[Any]
    ListVersions: ClassVar[Any]
    ReleaseHold: ClassVar[Any]
    ReportApplied: ClassVar[Any]
    WatchVersions: ClassVar[Any]

    def __init__(self, errors: Sequence[rpc.Abort]) -> None:
        self.errors, self.begun, self.committed, self.data = list(errors), 0, list[int](), b""

    async def BeginVersion(self, request: pb.BeginVersionRequest, context: Any) -> pb.BeginVersionResponse:
        self.begun += 1
        if self.errors:
            raise self.errors.pop(0)
        return pb.BeginVersionResponse()

    async def PushTensors(self, requests: Any, context: Any) -> pb.PushTensorsResponse:
        self.data = b"".join([r.data async for r in requests])
        return pb.PushTensorsResponse(received=len(self.data))

    async def CommitVersion(self, request: pb.CommitVersionRequest, context: Any) -> pb.CommitVersionResponse:
        self.committed.append(request.version.step)
        return pb.CommitVersionResponse()


def publish(store: Store, within: float = 10.0) -> bool:
    async def run() -> bool:
        async with rpc.Server("weight_sync") as server:
            server.add(weights_pb2_grpc.add_WeightSyncServiceServicer_to_server, store)
            await server.start()
            async with rpc.channel(server.address) as channel:
                return await publishing.publish(channel, 1, 7, TENSORS, within)

    return asyncio.run(run())


def test_what_passes_is_repeated_until_the_version_is_ready() -> None:
    store = Store(
        [rpc.unavailable("restarting", retry_after=0.01), rpc.resource_exhausted("disk full", retry_after=0.01)]
    )
    assert publish(store)
    assert (store.begun, store.committed) == (3, [7])
    assert store.data == bytes(TENSORS[0][1].numpy().data)


@pytest.mark.parametrize("held", [rpc.already_exists("READY"), rpc.failed_precondition("newer")])
def test_a_version_that_is_held_or_overtaken_is_not_pushed(held: rpc.Abort) -> None:
    store = Store([held])
    assert not publish(store)
    assert (store.begun, store.committed) == (1, [])


def test_a_refusal_for_good_is_raised_at_once() -> None:
    store = Store([rpc.invalid_argument("manifest")])
    with pytest.raises(rpc.RpcError, match="INVALID_ARGUMENT"):
        publish(store)
    assert store.begun == 1


def test_it_is_given_up_with_the_last_error_when_the_time_is_over() -> None:
    store = Store([rpc.unavailable("away", retry_after=60.0)] * 9)
    with pytest.raises(rpc.RpcError, match="away"):
        publish(store, within=5.0)
    assert store.begun == 1
