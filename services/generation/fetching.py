"""Fetches a version from weight_sync into a file on this host, checked tensor by tensor, resumable."""

import asyncio
import logging
import mmap
import pathlib
from typing import Any

import grpc

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.telemetry.waits import waiting
from penstock.tensors import Receiver, check_manifest, unframe
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc

logger = logging.getLogger(__name__)
FETCH_SECONDS = 600.0
ATTEMPTS = 5


async def fetch(channel: grpc.aio.Channel, version: PolicyVersion, path: pathlib.Path) -> pb.Manifest:
    """Writes the version's bytes to `path` and gives its manifest. After a broken stream it goes on where it was.

    Raises rpc.RpcError (NotFound: the version was retired meanwhile) or tensors.ChecksumError.
    """
    stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
    answer = await rpc.call(stub.GetManifest(pb.GetManifestRequest(version=version), timeout=30))
    manifest = answer.manifest
    check_manifest(manifest)
    with path.open("wb") as empty:
        empty.truncate(manifest.total_size)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), manifest.total_size) as memory:
        with memoryview(memory) as view:
            await _fill(channel, Receiver(manifest, view), version)
    return manifest


async def _fill(channel: grpc.aio.Channel, receiver: Receiver, version: PolicyVersion) -> None:
    method: Any = channel.unary_stream(
        "/penstock.weights.v1.WeightSyncService/FetchTensors",
        request_serializer=pb.FetchTensorsRequest.SerializeToString,
    )
    for attempt in range(1, ATTEMPTS + 1):
        request = pb.FetchTensorsRequest(version=version, offset=receiver.received)
        try:
            with (
                waiting(f"weights of version {version.step}", on="weight_sync", deadline=FETCH_SECONDS),
                rpc.translated(),
            ):
                async for message in method(request, timeout=FETCH_SECONDS):
                    data = unframe(message)
                    if data is None:
                        data = memoryview(pb.FetchTensorsResponse.FromString(message).data)
                    receiver.feed(data)
                    await asyncio.sleep(0)
            return
        except rpc.RpcError as error:
            if error.code != grpc.StatusCode.UNAVAILABLE or attempt == ATTEMPTS:
                raise
            logger.warning("the weight stream broke at %d bytes, going on: %s", receiver.received, error)
            await rpc.ready(channel, "weight_sync", within=30)
