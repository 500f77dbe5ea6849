"""Hands a version to weight_sync: manifest, bytes, commit. Repeated until it is READY, or refused for good."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
import torch
from torch import Tensor

from penstock import rpc
from penstock.recipes import Recipe
from penstock.telemetry import metrics
from penstock.telemetry.waits import progress
from penstock.tensors import CHUNK_BYTES, base_model, frame, make_manifest
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.learner.interface.policy import Policy

logger = logging.getLogger(__name__)
_versions = metrics.counter(metrics.VERSIONS_PUBLISHED, "versions made READY")
_bytes = metrics.counter(metrics.WEIGHT_BYTES, "bytes pushed to weight_sync")

PUSH_SECONDS = 600.0
RETRY = rpc.Retry(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # no room on its disk
    ),
    pause=1.0,
    log=logging.WARNING,
)


def weights_of(recipe: Recipe, policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """What weight_sync gets of a version, (name, CPU tensor) on rank 0 and nothing elsewhere; a collective."""
    lora = recipe.learner.lora
    return policy.export() if lora is None or lora.publish == "merged" else policy.adapters()


def adapters_of(recipe: Recipe) -> pb.Adapters | None:
    """What is said of that where it is the adapters alone."""
    lora = recipe.learner.lora
    if lora is None or lora.publish == "merged":
        return None
    return pb.Adapters(scale=lora.alpha / lora.rank, base=base_model(recipe.model.path))


async def publish(
    channel: grpc.aio.Channel,
    epoch: int,
    step: int,
    tensors: Sequence[tuple[str, Tensor]],
    within: float,
    adapters: pb.Adapters | None = None,
) -> bool:
    """Makes version (epoch, step) READY; False if weight_sync holds this or a newer one already.

    `tensors`: (Hugging Face name, CPU tensor), or what `adapters` says. Raises rpc.RpcError after `within` seconds of
    trying.
    """
    buffers = [(name, _dtype(t), list(t.shape), _bytes_of(t)) for name, t in tensors]
    manifest = await asyncio.to_thread(make_manifest, epoch, step, buffers, adapters=adapters)
    return await rpc.retried(
        RETRY,
        within,
        lambda left: _push(channel, manifest, [b[3] for b in buffers]),
        what=f"version {step} to be READY",
        on="weight_sync",
    )


async def _push(channel: grpc.aio.Channel, manifest: pb.Manifest, buffers: Sequence[memoryview]) -> bool:
    stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
    try:
        await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=manifest), timeout=60))
    except (rpc.errors.AlreadyExists, rpc.errors.FailedPrecondition) as error:
        # A replayed step: what engines hold stays true, whatever this learner has.
        logger.info("version %d is not pushed: %s", manifest.version.step, error)
        return False

    async def messages() -> AsyncIterator[bytes]:
        yield pb.PushTensorsRequest(version=manifest.version).SerializeToString()
        for buffer in buffers:
            for start in range(0, len(buffer), CHUNK_BYTES):
                yield frame(buffer[start : start + CHUNK_BYTES], pb.PushTensorsRequest.DATA_FIELD_NUMBER)

    push: Any = channel.stream_unary(
        "/penstock.weights.v1.WeightSyncService/PushTensors",
        response_deserializer=pb.PushTensorsResponse.FromString,
    )
    await rpc.call(push(messages(), timeout=PUSH_SECONDS))
    await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=manifest.version), timeout=60))
    _versions.inc()
    _bytes.inc(manifest.total_size)
    progress()
    return True


def _dtype(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")


def _bytes_of(t: Tensor) -> memoryview:
    """A tensor's bytes without a copy (it is contiguous and on the CPU)."""
    if not math.prod(t.shape):
        return memoryview(b"")
    return memoryview(t.contiguous().view(-1).view(torch.uint8).numpy())
