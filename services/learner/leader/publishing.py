"""Hands a version to weight_sync: manifest, bytes, commit. Repeated until it is READY, or refused for good.

The bytes are written into weight_sync's own file where that is on this host (`writing.py`), and streamed else.
"""

import asyncio
import dataclasses
import logging
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import grpc
import torch
from torch import Tensor

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.recipes import Recipe
from penstock.telemetry import metrics
from penstock.telemetry.waits import progress
from penstock.tensors import CHUNK_BYTES, base_model, frame, make_manifest
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.learner.interface.errors import CannotGoOn
from services.learner.interface.policy import Policy
from services.learner.leader.differences import Differences
from services.learner.leader.epochs import AnotherLearner
from services.learner.leader.writing import write

logger = logging.getLogger(__name__)
_versions = metrics.counter(metrics.VERSIONS_PUBLISHED, "versions made READY")
_bytes = metrics.counter(metrics.WEIGHT_BYTES, "bytes pushed to weight_sync")

PUSH_SECONDS = 600.0
COMMITTED = (
    pb.VERSION_STATE_READY,
    pb.VERSION_STATE_VERIFIED,
    pb.VERSION_STATE_CANARY,
    pb.VERSION_STATE_REJECTED,
)
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


@dataclasses.dataclass(frozen=True)
class _How:
    """A method that pushes, and its messages. place: the field that names the file to be written instead."""

    place: str
    written: pb.Written
    method: str
    request: type[pb.PushTensorsRequest] | type[pb.PushDifferenceRequest]
    response: type[pb.PushTensorsResponse] | type[pb.PushDifferenceResponse]


_SERVICE = "/penstock.weights.v1.WeightSyncService/"
TENSORS = _How("path", pb.WRITTEN_TENSORS, f"{_SERVICE}PushTensors", pb.PushTensorsRequest, pb.PushTensorsResponse)
DIFFERENCE = _How(
    "difference_path",
    pb.WRITTEN_DIFFERENCE,
    f"{_SERVICE}PushDifference",
    pb.PushDifferenceRequest,
    pb.PushDifferenceResponse,
)
UNUSABLE = (rpc.errors.NotFound, rpc.errors.InvalidArgument, rpc.errors.DataLoss, rpc.errors.ResourceExhausted)
"""Errors by which weight_sync says that it cannot make the version of a difference, which needs room beside it: the
whole is another matter."""


def weights_of(recipe: Recipe, policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """What weight_sync gets of a version, (name, CPU tensor) on rank 0 and nothing elsewhere; a collective."""
    lora, dtype = recipe.learner.lora, recipe.weight_sync.dtype
    for name, tensor in policy.export() if lora is None or lora.publish == "merged" else policy.adapters():
        yield name, tensor if dtype is None else tensor.to(getattr(torch, dtype))


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
    *,
    recorded: int,
    differences: Differences | None = None,
    probes: Sequence[pb.Probe] = (),
    host: str | None = None,
) -> bool:
    """Makes version (epoch, step) READY; False if this is a replayed step, whose version weight_sync has had before.

    `tensors`: (Hugging Face name, CPU tensor), or what `adapters` says. `recorded`: the newest step that has a batch.
    `differences`: what was published before, where that is kept; then what has changed is pushed, and all of it only
    where weight_sync cannot use that. `probes`: what the weights say of a few samples. `host`: which one this is, as
    weight_sync says it; None writes none of its files.
    Raises AnotherLearner; CannotGoOn for a version that no learner of this run has made; rpc.RpcError after `within`
    seconds of trying.
    """
    buffers = [(name, _dtype(t), list(t.shape), _bytes_of(t)) for name, t in tensors]
    kept, data = differences or Differences(1), [b[3] for b in buffers]
    manifest = await asyncio.to_thread(make_manifest, epoch, step, buffers, kept.parent, adapters)
    manifest.probes.extend(probes)
    difference = await asyncio.to_thread(kept.to, manifest, data)

    async def attempt(left: float) -> bool:
        nonlocal difference
        if difference is not None:
            try:
                return await _push(channel, manifest, [memoryview(difference)], recorded, DIFFERENCE, host, kept)
            except UNUSABLE as error:
                logger.warning("version %d is pushed whole: %s", step, error)
                difference = None
        return await _push(channel, manifest, data, recorded, TENSORS, host, kept)

    what = f"version {step} to be READY"
    if not await rpc.retried(RETRY, within, attempt, what=what, on="weight_sync"):
        kept.forget()
        return False
    kept.took(manifest, data, whole=difference is None)
    return True


async def newest(channel: grpc.aio.Channel, within: float = 60.0) -> PolicyVersion | None:
    """The newest version that weight_sync has, whatever was decided of it.

    Raises rpc.RpcError after `within` seconds of trying.
    """
    stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
    answer = await rpc.retried(
        RETRY,
        within,
        lambda left: rpc.call(stub.ListVersions(pb.ListVersionsRequest(), timeout=left)),
        what="the newest version",
        on="weight_sync",
    )
    kept = [info.version for info in answer.versions if info.state in COMMITTED]
    return max(kept, key=lambda version: version.step, default=None)


def check_replayed(ours: PolicyVersion, held: PolicyVersion | None, recorded: int) -> None:
    """Raises unless a version that weight_sync refuses is one that it has had before. Pure.

    What engines hold stays true then, whatever this learner has: on a GPU a replayed step is not bit-identical.
    Raises AnotherLearner, or CannotGoOn where `held` is a version that no batch of this run made.
    """
    if held is not None and held.epoch > ours.epoch:
        raise AnotherLearner(f"a later learner (epoch {held.epoch}) publishes; this one (epoch {ours.epoch}) ends")
    if held is None or held.step < ours.step or held.step > recorded:
        has = "no version" if held is None else f"version {held.step}"
        raise CannotGoOn(f"weight_sync refuses version {ours.step} and holds {has}; {recorded} steps have a batch")


async def _push(
    channel: grpc.aio.Channel,
    manifest: pb.Manifest,
    buffers: Sequence[memoryview],
    recorded: int,
    how: _How,
    host: str | None,
    kept: Differences,
) -> bool:
    stub, version = weights_pb2_grpc.WeightSyncServiceStub(channel), manifest.version
    try:
        begun = await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=manifest), timeout=60))
    except rpc.errors.AlreadyExists as error:
        logger.info("version %d is not pushed: %s", version.step, error)
        return False
    except rpc.errors.FailedPrecondition as error:
        check_replayed(version, await newest(channel), recorded)
        logger.info("version %d is not pushed, its step is a replayed one: %s", version.step, error)
        return False

    kept.wanted = not begun.all_mapped or host != begun.boot_id
    place, written = getattr(begun, how.place), pb.WRITTEN_UNSPECIFIED
    size = manifest.total_size if how is TENSORS else 0
    if place and host == begun.boot_id and await asyncio.to_thread(write, place, size, buffers):
        written = how.written
    else:
        push: Any = channel.stream_unary(how.method, response_deserializer=how.response.FromString)
        await rpc.call(push(_messages(version, begun.attempt, buffers, how), timeout=PUSH_SECONDS))
    commit = pb.CommitVersionRequest(version=version, written=written, attempt=begun.attempt)
    try:
        await rpc.call(stub.CommitVersion(commit, timeout=PUSH_SECONDS))
    except (rpc.errors.FailedPrecondition, rpc.errors.DataLoss) as error:
        if not written or error.reason not in ("NOT_WRITTEN", "CHECKSUM"):
            raise
        logger.warning("what was written of version %d is not taken, it is pushed: %s", version.step, error)
        return await _push(channel, manifest, buffers, recorded, how, None, kept)
    _versions.inc()
    _bytes.inc(sum(map(len, buffers)))
    progress()
    return True


async def _messages(
    version: PolicyVersion, attempt: int, buffers: Iterable[memoryview], how: _How
) -> AsyncIterator[bytes]:
    yield how.request(version=version, attempt=attempt).SerializeToString()
    for buffer in buffers:
        for start in range(0, len(buffer), CHUNK_BYTES):
            yield frame(buffer[start : start + CHUNK_BYTES], how.request.DATA_FIELD_NUMBER)


def _dtype(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")


def _bytes_of(t: Tensor) -> memoryview:
    """A tensor's bytes without a copy (it is contiguous and on the CPU)."""
    if not math.prod(t.shape):
        return memoryview(b"")
    return memoryview(t.contiguous().view(-1).view(torch.uint8).numpy())
