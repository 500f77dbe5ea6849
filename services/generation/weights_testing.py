"""Versions in a real weight_sync server, for the tests of what fetches them."""

import contextlib
import pathlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import grpc

from penstock import rpc
from penstock.differences import encoded, layout_of, tensors_in
from penstock.fetching import Source
from penstock.membership import beside
from penstock.rpc import Certificates
from penstock.tensors import CHUNK_BYTES, make_manifest
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.bulk import Bulk
from services.weight_sync.relaying.following import Following
from services.weight_sync.relaying.relay import Relay
from services.weight_sync.server import RAW_REQUESTS, RAW_RESPONSES, WeightSync
from services.weight_sync.serving import Serving
from services.weight_sync.store import VersionStore

SIZE = 3 * CHUNK_BYTES + 4096


def whole(step: int) -> bytes:
    """A version's bytes."""
    return bytes([step]) * SIZE


def manifest(step: int, epoch: int = 1, base: bytes | None = None, parent: pb.Manifest | None = None) -> pb.Manifest:
    """A version of two tensors; adapters on the model `base`, if it is given."""
    half, data = SIZE // 2, whole(step)
    tensors = [("a", "bfloat16", [half // 2], data[:half]), ("b", "float32", [half // 4], data[half:])]
    adapters = None if base is None else pb.Adapters(scale=2.0, base=base)
    return make_manifest(epoch, step, tensors, parent.version if parent is not None else None, adapters)


def difference(parent: pb.Manifest, made: pb.Manifest) -> bytes:
    """What makes a version of its parent."""
    before, after = (tensors_in(m, memoryview(whole(m.version.step))) for m in (parent, made))
    found = encoded(layout_of(made), before, after, most=1.0)
    assert found is not None
    return found


@dataclass
class Weights:
    """A running version store."""

    store: VersionStore
    servicer: WeightSync
    address: str
    bulk: Bulk | None = None

    async def publish(self, step: int, epoch: int = 1, base: bytes | None = None) -> pb.Manifest:
        """Makes a version READY, as a learner does."""
        made = manifest(step, epoch, base)
        async with rpc.channel(self.address) as channel:
            stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
            await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=made)))
            await rpc.call(stub.PushTensors(_messages(made)))
            await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=made.version)))
        return made

    async def publish_difference(self, parent: pb.Manifest, step: int) -> pb.Manifest:
        """As `publish`, by what has changed since `parent`."""
        made = manifest(step, parent.version.epoch, parent=parent)
        async with rpc.channel(self.address) as channel:
            stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
            await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=made)))
            sent = pb.PushDifferenceRequest(version=made.version, data=difference(parent, made))
            await rpc.call(stub.PushDifference(iter([sent])))
            await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=made.version)))
        return made

    async def decide(self, step: int, decision: pb.Decision) -> None:
        """Promotes a version, rejects it or rolls back to it."""
        async with rpc.channel(self.address) as channel:
            stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
            await rpc.call(stub.DecideVersion(pb.DecideVersionRequest(step=step, decision=decision)))

    async def listed(self) -> pb.ListVersionsResponse:
        """What it says of its versions and receivers."""
        async with rpc.channel(self.address) as channel:
            stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
            answer: pb.ListVersionsResponse = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
        return answer

    async def receivers(self) -> dict[str, pb.Receiver]:
        """What receivers have reported."""
        return {r.name: r for r in (await self.listed()).receivers}


def _messages(made: pb.Manifest) -> Iterator[pb.PushTensorsRequest]:
    yield pb.PushTensorsRequest(version=made.version)
    data = whole(made.version.step)
    for start in range(0, SIZE, CHUNK_BYTES):
        yield pb.PushTensorsRequest(data=data[start : start + CHUNK_BYTES])


@contextlib.asynccontextmanager
async def weight_sync(
    directory: pathlib.Path,
    servicer: type[WeightSync] = WeightSync,
    listen: str = "127.0.0.1:0",
    has_bulk: bool = False,
    certificates: Certificates | None = None,
) -> AsyncIterator[Weights]:
    """The service, with `servicer` in place of the real one where a test needs it to misbehave.

    certificates: of the bulk socket.
    """
    store = VersionStore(directory, keep=2)
    with Bulk("127.0.0.1", 0, certificates) if has_bulk else contextlib.nullcontext() as bulk:
        made = servicer(store, bulk=bulk)
        async with served(made, listen) as address:
            yield Weights(store, made, address, bulk)


@contextlib.asynccontextmanager
async def served(made: Serving, listen: str) -> AsyncIterator[str]:
    """Where a servicer is reached."""
    async with rpc.Server("weight_sync", listen) as server:
        server.add(
            weights_pb2_grpc.add_WeightSyncServiceServicer_to_server,
            made,
            raw_requests=RAW_REQUESTS,
            raw_responses=RAW_RESPONSES,
        )
        await server.start()
        yield server.address


@contextlib.asynccontextmanager
async def connected(weights: Weights) -> AsyncIterator[grpc.aio.Channel]:
    """A channel as the service opens it."""
    async with rpc.channel(weights.address, stream_seconds=60) as channel:
        yield channel


@contextlib.asynccontextmanager
async def relayed(weights: Weights, directory: pathlib.Path) -> AsyncIterator[str]:
    """Where a relay is reached."""
    async with connected(weights) as channel:
        store = VersionStore(directory, keep=2, follows=True)
        following = Following(store, Source(channel), "relay-a")
        async with served(Relay(store, None, following), "127.0.0.1:0") as address, beside(following.run()):
            yield address
