"""Hands a version to weight_sync: manifest, bytes, commit. Repeated until it is READY, or refused for good.

This is rank 0's side, which speaks with weight_sync for all ranks; every rank puts the bytes that it has (`parts.py`),
the others as they are told (`following.py`). A version's tensors stand in the order of their names, whoever has them.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence

import grpc
import torch
from torch import Tensor

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.differences import joined
from penstock.recipes import Recipe
from penstock.telemetry import metrics
from penstock.telemetry.waits import progress
from penstock.tensors import Row, base_model, manifest_of
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.learner.interface.errors import AnotherLearner, CannotGoOn
from services.learner.interface.policy import Policy
from services.learner.publishing.bulk import Bulk
from services.learner.publishing.differences import WORTH, Differences
from services.learner.publishing.parts import PUSH_SECONDS, Part, Place, stream
from services.learner.publishing.putting import put
from services.learner.publishing.together import (
    UNREACHED,
    Alone,
    Over,
    Ranks,
    Said,
    checked,
    failure,
    offer,
    outcome,
    remember,
    unpacked,
)
from services.learner.publishing.writing import Piece, write

logger = logging.getLogger(__name__)
_versions = metrics.counter(metrics.VERSIONS_PUBLISHED, "versions made READY")
_bytes = metrics.counter(metrics.WEIGHT_BYTES, "bytes pushed to weight_sync")

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
UNUSABLE = (rpc.errors.NotFound, rpc.errors.InvalidArgument, rpc.errors.DataLoss, rpc.errors.ResourceExhausted)
"""Errors by which weight_sync says that it cannot make the version of a difference, which needs room beside it: the
whole is another matter."""


def weights_of(recipe: Recipe, policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """What weight_sync gets of a version from this rank, (name, CPU tensor); a collective. Adapters alone, which are
    small, are rank 0's."""
    lora, dtype = recipe.learner.lora, recipe.weight_sync.dtype
    for name, tensor in policy.owned() if lora is None or lora.publish == "merged" else policy.adapters():
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
    ranks: Ranks | None = None,
    address: str = "",
    bulk: Bulk | None = None,
) -> bool:
    """Makes version (epoch, step) READY; False if this is a replayed step, whose version weight_sync has had before.

    `tensors`: (Hugging Face name, CPU tensor) of this rank, or what `adapters` says. `recorded`: the newest step that
    has a batch. `differences`: what was published before, where that is kept; then what has changed is pushed, and all
    of it only where weight_sync cannot use that. `probes`: what the weights say of a few samples. `host`: which one
    this is, as weight_sync says it; None writes none of its files. `ranks`: the others, which have the rest of the
    tensors and find weight_sync at `address`. `bulk`: its bulk socket, where that may be used.
    Raises AnotherLearner; CannotGoOn for a version that no learner of this run has made; rpc.RpcError after `within`
    seconds of trying.
    """
    kept, part = differences or Differences(1), Part(tensors)
    publishing = _Publishing(channel, part, ranks or Alone(), address, bulk, host, recorded)
    over = Over()
    try:
        rows, difference = await publishing.assembled(kept)
        manifest = manifest_of(epoch, step, rows, kept.parent, adapters)
        manifest.probes.extend(probes)
        over = await publishing.until_ready(manifest, difference, within)
    finally:
        remember(kept, part, over)
        await publishing.ranks.over(over)
    return over.took


def _assembled(offers: Sequence[Said]) -> tuple[list[Row], bytes | None]:
    """The rows of all ranks' tensors in the order of their names; and what makes them of the version before, where
    every rank has that and it is worth it."""
    rows, records = list[Row](), dict[str, memoryview]()
    differ = all(said["difference"] is not None for said in offers)
    for said in offers:
        own = [Row(*row) for row in said["rows"]]
        rows += own
        if differ:
            records |= {row.name: unpacked(made) for row, made in zip(own, said["difference"], strict=True)}
    rows.sort(key=lambda row: row.name)
    worth = sum(map(len, records.values())) <= WORTH * sum(row.size for row in rows)
    return rows, joined(records[row.name] for row in rows) if differ and worth else None


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


class _Publishing:
    """One version's way. part: of this rank; the rest as `publish`.

    Where another rank could not reach weight_sync (_unreached), twice, this one puts all (_alone).
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        part: Part,
        ranks: Ranks,
        address: str,
        bulk: Bulk | None,
        host: str | None,
        recorded: int,
    ) -> None:
        self.ranks, self._bulk = ranks, bulk
        self._alone = self._unreached = False
        self._channel, self._part, self._address, self._recorded = channel, part, address, recorded
        self._stub, self._host, self._wanted = weights_pb2_grpc.WeightSyncServiceStub(channel), host, True

    async def assembled(self, kept: Differences) -> tuple[list[Row], bytes | None]:
        """What all ranks have, as `_assembled`. Raises rpc.RpcError where one of them fails."""
        try:
            own = await asyncio.to_thread(offer, self._part, kept)
        except Exception as error:  # as another rank's: all are told
            own = failure(error)
        return await asyncio.to_thread(_assembled, checked(await self.ranks.offered(own)))

    async def until_ready(self, manifest: pb.Manifest, difference: bytes | None, within: float) -> Over:
        """Pushes until the version is READY, or was had before. Raises as `publish`."""
        version = manifest.version

        async def attempt(left: float) -> bool:
            nonlocal difference
            if difference is not None:
                try:
                    return await self._push(manifest, memoryview(difference))
                except UNUSABLE as error:
                    logger.warning("version %d is pushed whole: %s", version.step, error)
                    difference = None
            return await self._push(manifest, None)

        what = f"version {version.step} to be READY"
        took = await rpc.retried(RETRY, within, attempt, what=what, on="weight_sync")
        return Over(version.epoch, version.step, version.digest.hex(), took, difference is None, self._wanted)

    async def _push(self, manifest: pb.Manifest, difference: memoryview | None, *, files: bool = True) -> bool:
        """files: whether weight_sync's may be written."""
        version = manifest.version
        try:
            begun = await rpc.call(self._stub.BeginVersion(pb.BeginVersionRequest(manifest=manifest), timeout=60))
        except rpc.errors.AlreadyExists as error:
            logger.info("version %d is not pushed: %s", version.step, error)
            return False
        except rpc.errors.FailedPrecondition as error:
            check_replayed(version, await newest(self._channel), self._recorded)
            logger.info("version %d is not pushed, its step is a replayed one: %s", version.step, error)
            return False

        self._wanted = not begun.all_mapped or self._host != begun.boot_id
        if not files:
            begun.path = begun.difference_path = ""
        if difference is None:
            written, size = await self._whole(manifest, begun), manifest.total_size
        else:
            written, size = await self._differing(version, begun, difference), len(difference)
        commit = pb.CommitVersionRequest(version=version, written=written, attempt=begun.attempt)
        try:
            await rpc.call(self._stub.CommitVersion(commit, timeout=PUSH_SECONDS))
        except (rpc.errors.FailedPrecondition, rpc.errors.DataLoss) as error:
            if not written or error.reason not in ("NOT_WRITTEN", "CHECKSUM"):
                raise
            logger.warning("what was written of version %d is not taken, it is pushed: %s", version.step, error)
            return await self._push(manifest, difference, files=False)
        _versions.inc()
        _bytes.inc(size)
        progress()
        return True

    async def _differing(
        self, version: PolicyVersion, begun: pb.BeginVersionResponse, difference: memoryview
    ) -> pb.Written:
        path, pieces = begun.difference_path, [(0, difference)]
        if path and self._host == begun.boot_id and await asyncio.to_thread(write, path, 0, pieces):
            return pb.WRITTEN_DIFFERENCE
        await stream(self._channel, "PushDifference", version, begun.attempt, pieces)
        return pb.WRITTEN_UNSPECIFIED

    async def _whole(self, manifest: pb.Manifest, begun: pb.BeginVersionResponse) -> pb.Written:
        """Every rank puts what it has."""
        version = manifest.version
        offsets = {tensor.name: tensor.offset for tensor in manifest.tensors}
        at, size = (begun.attempt, begun.boot_id, begun.path), manifest.total_size
        alone = self._alone or not begun.takes_parts
        place = Place(self._address, version.epoch, version.step, *at, size, offsets, alone)
        await self.ranks.putting(place)
        pieces = self._part.pieces(place)
        if place.alone:
            others = checked(await self.ranks.went(outcome(False)))
            pieces = _in_order([*pieces, *((at, unpacked(data)) for said in others for at, data in said["pieces"])])
            return _written(await self._put(place, pieces))
        own = outcome(await self._put(place, pieces))
        found = await self.ranks.went(own)
        try:
            return _written(any(said["written"] for said in checked(found)))
        except rpc.RpcError as error:
            if error.reason == UNREACHED:
                logger.warning("not all of version %d was put: %s", version.step, error.message)
                self._alone, self._unreached = self._unreached, True  # a second time
            raise _again(error) from error

    async def _put(self, place: Place, pieces: Sequence[Piece]) -> bool:
        try:
            return await put(self._channel, place, pieces, self._host, self._bulk)
        except rpc.RpcError as error:
            raise _again(error) from error


def _again(error: rpc.RpcError) -> rpc.RpcError:
    """A push that is refused as it stands, for another one came between, is begun again like one that broke."""
    if error.code is not grpc.StatusCode.FAILED_PRECONDITION:
        return error
    return rpc.RpcError(grpc.StatusCode.UNAVAILABLE, error.message, reason=error.reason)


def _in_order(pieces: Sequence[Piece]) -> list[Piece]:
    return sorted(pieces, key=lambda piece: piece[0])


def _written(written: bool) -> pb.Written:
    return pb.WRITTEN_TENSORS if written else pb.WRITTEN_UNSPECIFIED
