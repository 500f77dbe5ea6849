"""Fetches all bytes of a version into a file on this host, checked tensor by tensor, resumable: by the bulk socket, or
as gRPC's stream.

Which way the bytes come is for `hands.py` to choose, and from whom for `relays.py`.
"""

import asyncio
import logging
import pathlib
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.fetching.bulk import FETCH_SECONDS
from penstock.fetching.slots import Slot
from penstock.fetching.source import ATTEMPTS, FETCHING, FETCHING_PAUSE, Source
from penstock.telemetry import metrics
from penstock.telemetry.waits import waiting
from penstock.tensors import ManifestError, Overlapped, Receiver, check_manifest, unframe
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc

bytes_received = metrics.counter(metrics.WEIGHT_BYTES_RECEIVED, "bytes of versions that crossed a socket")


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
    source, slot = Source(channel), Slot(path)
    with failing(version):
        manifest = (await described(source, version, model)).manifest
        await fetch_whole(source, manifest, slot.open(manifest.total_size), Receiver(manifest, slot.write))
    return manifest


@contextmanager
def failing(version: PolicyVersion) -> Iterator[None]:
    """Makes FetchFailed of whatever may go wrong in the block."""
    try:
        yield
    except (rpc.RpcError, OSError, ValueError, DecodeError) as error:  # manifest, checksum, size: ValueErrors
        raise FetchFailed(f"cannot fetch version {version.step}: {type(error).__name__}: {error}") from error


async def described(
    source: Source, version: PolicyVersion, model: Callable[[], bytes] | None = None
) -> pb.GetManifestResponse:
    """A version's manifest, checked, and where it lies; one with the digest that `version` has, if it has one.

    A relay that fetches it is waited for. model: as `fetch`; None takes adapters on any model.
    Raises AnotherModel, and as `failing` expects.
    """
    answer = await _described(source, version)
    manifest = answer.manifest
    check_manifest(manifest)
    if (manifest.version.step, manifest.version.epoch) != (version.step, version.epoch):
        raise ManifestError(f"version: step {manifest.version.step} was sent where step {version.step} was asked for")
    if version.digest and manifest.version.digest != version.digest:
        raise ManifestError(f"version.digest: is that of another version than step {version.step} was told to be")
    if model is not None and manifest.HasField("adapters"):
        if manifest.adapters.base != await asyncio.to_thread(model):
            raise AnotherModel(
                f"version {version.step} is adapters on another model than the one this engine was started with; "
                "generation and learner must have the same model.path contents"
            )
    return answer


async def _described(source: Source, version: PolicyVersion) -> pb.GetManifestResponse:
    patience = source.fetching_seconds
    stub, until = weights_pb2_grpc.WeightSyncServiceStub(source.channel), time.monotonic() + patience
    request = pb.GetManifestRequest(version=version)
    with waiting(f"the manifest of version {version.step}", on=source.name, deadline=patience):
        if source.relay:
            await rpc.ready(source.channel, source.name, within=source.ready_seconds)
        while True:
            try:
                answer: pb.GetManifestResponse = await rpc.call(
                    stub.GetManifest(request, timeout=source.silent_seconds)
                )
            except rpc.errors.Unavailable as error:
                if error.reason != FETCHING or time.monotonic() >= until:
                    raise
                await asyncio.sleep(FETCHING_PAUSE)
            else:
                return answer


async def fetch_whole(source: Source, manifest: pb.Manifest, whole: memoryview, receiver: Receiver) -> pb.Path:
    """Puts a version's bytes where `receiver` writes them, which `whole` maps; by which way. Raises as `failing`
    expects, after several attempts."""
    bulk = source.bulk
    if bulk is not None and not receiver.complete:
        if await bulk.fill(source.channel, manifest.version, whole, receiver):
            return pb.PATH_BULK
    await _fill(source, receiver, manifest.version)
    return pb.PATH_WHOLE


async def _fill(source: Source, receiver: Receiver, version: PolicyVersion) -> None:
    method: Any = source.channel.unary_stream(
        "/penstock.weights.v1.WeightSyncService/FetchTensors",
        request_serializer=pb.FetchTensorsRequest.SerializeToString,
    )

    async def go_on(left: float) -> None:
        await rpc.ready(source.channel, source.name, within=source.ready_seconds)
        request = pb.FetchTensorsRequest(version=version, offset=receiver.received)
        with rpc.translated():
            coming = source.flowing(method(request, timeout=min(FETCH_SECONDS, left)))
            async with Overlapped(receiver.feed) as feeding, aclosing(coming):  # off the loop that streams tokens
                async for message in coming:
                    data = unframe(message)
                    if data is None:
                        data = memoryview(pb.FetchTensorsResponse.FromString(message).data)
                    await feeding.put(data)
        if not receiver.complete:
            raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, "the stream ended before the version did")

    # The connection says when the server is back: no pause beside it.
    broken = rpc.Retry((grpc.StatusCode.UNAVAILABLE,), source.attempts, pause=0.0, log=logging.WARNING)
    within, what = ATTEMPTS * FETCH_SECONDS, f"weights of version {version.step}"
    await rpc.retried(broken, within, go_on, what=what, on=source.name)
