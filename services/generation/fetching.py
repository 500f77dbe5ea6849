"""Fetches a version from weight_sync into a file on this host, checked tensor by tensor, resumable: by the bulk socket,
or as gRPC's stream.

Which way the bytes come is for `receiving.py` to choose.
"""

import asyncio
import logging
import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.tensors import ManifestError, Overlapped, Receiver, check_manifest, unframe
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.generation.bulk import FETCH_SECONDS, Bulk
from services.generation.slots import Slot

READY_SECONDS = 30.0
ATTEMPTS = 5
# The connection says when the server is back: no pause beside it.
BROKEN = rpc.Retry((grpc.StatusCode.UNAVAILABLE,), ATTEMPTS, pause=0.0, log=logging.WARNING)


class FetchFailed(Exception):
    """The version could not be had: retired meanwhile, unreachable, damaged, or there is no room for it."""


class AnotherModel(FetchFailed):
    """The version is adapters on another model than this receiver's."""


async def fetch(
    channel: grpc.aio.Channel, version: PolicyVersion, path: pathlib.Path, model: Callable[[], bytes] = bytes
) -> pb.Manifest:
    """Writes the version's bytes to `path` and gives its manifest. After a broken stream it goes on where it was.

    model: `penstock.tensors.base_model` of this receiver's own, asked for where the version is adapters; a receiver
    without one takes whole versions alone.
    Raises FetchFailed. Then `path` holds nothing that may be used.
    """
    with failing(version):
        manifest = (await described(channel, version, model)).manifest
        await fetch_whole(channel, manifest, Slot(path), None)
    return manifest


@contextmanager
def failing(version: PolicyVersion) -> Iterator[None]:
    """Makes FetchFailed of whatever may go wrong in the block."""
    try:
        yield
    except (rpc.RpcError, OSError, ValueError, DecodeError) as error:  # manifest, checksum, size: ValueErrors
        raise FetchFailed(f"cannot fetch version {version.step}: {type(error).__name__}: {error}") from error


async def described(
    channel: grpc.aio.Channel, version: PolicyVersion, model: Callable[[], bytes]
) -> pb.GetManifestResponse:
    """A version's manifest, checked, and where it lies. Raises AnotherModel, and as `failing` expects."""
    stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
    answer: pb.GetManifestResponse = await rpc.call(
        stub.GetManifest(pb.GetManifestRequest(version=version), timeout=30)
    )
    manifest = answer.manifest
    check_manifest(manifest)
    if (manifest.version.step, manifest.version.epoch) != (version.step, version.epoch):
        raise ManifestError(f"version: step {manifest.version.step} was sent where step {version.step} was asked for")
    if manifest.HasField("adapters") and manifest.adapters.base != await asyncio.to_thread(model):
        raise AnotherModel(
            f"version {version.step} is adapters on another model than the one this engine was started with; "
            "generation and learner must have the same model.path contents"
        )
    return answer


async def fetch_whole(channel: grpc.aio.Channel, manifest: pb.Manifest, slot: Slot, bulk: Bulk | None) -> pb.Path:
    """Puts a version's bytes into `slot`; by which way. Raises as `failing` expects, after several attempts."""
    whole = await asyncio.to_thread(slot.open, manifest.total_size)
    receiver = Receiver(manifest, slot.write)
    if bulk is not None and not receiver.complete and await bulk.fill(channel, manifest.version, whole, receiver):
        return pb.PATH_BULK
    await _fill(channel, receiver, manifest.version)
    return pb.PATH_WHOLE


async def _fill(channel: grpc.aio.Channel, receiver: Receiver, version: PolicyVersion) -> None:
    method: Any = channel.unary_stream(
        "/penstock.weights.v1.WeightSyncService/FetchTensors",
        request_serializer=pb.FetchTensorsRequest.SerializeToString,
    )

    async def go_on(left: float) -> None:
        await rpc.ready(channel, "weight_sync", within=READY_SECONDS)
        request = pb.FetchTensorsRequest(version=version, offset=receiver.received)
        with rpc.translated():
            async with Overlapped(receiver.feed) as feeding:  # off the loop that streams tokens
                async for message in method(request, timeout=min(FETCH_SECONDS, left)):
                    data = unframe(message)
                    if data is None:
                        data = memoryview(pb.FetchTensorsResponse.FromString(message).data)
                    await feeding.put(data)
        if not receiver.complete:
            raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, "the stream ended before the version did")

    within, what = ATTEMPTS * FETCH_SECONDS, f"weights of version {version.step}"
    await rpc.retried(BROKEN, within, go_on, what=what, on="weight_sync")
