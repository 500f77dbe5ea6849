"""What a receiver has in its hands of policy versions, and the shortest way to the next one.

    the store's file on this host, mapped  >  differences from what is in the hands  >  all bytes

The next version is made beside the one in the hands, while the engine draws with that: two files that are written in
turn, so at most two versions are in memory, and nothing but loading is left for the engine's pause. The file that is
written has the version before the one in the hands: where it is known what leads from that to this, both differences
are applied to it in place, and nothing is copied. Whatever the way, every tensor was checked against its manifest:
here, or by weight_sync, whose file it is. A relay's file is checked here: whom weight_sync told of a version is to have
that one, whoever gives it.

Invariants (test names): a receiver with anything in its hands ends with the right bytes; a difference that makes
another version is counted, said, and cured by all bytes.
"""

import asyncio
import logging
import mmap
import os
import pathlib
import stat
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.differences import DifferenceError, beside, in_place, layout_of, make, tensors_in
from penstock.fetching.bulk import FETCH_SECONDS, Bulk
from penstock.fetching.slots import Slot
from penstock.fetching.source import Source
from penstock.fetching.whole import bytes_received, described, failing, fetch_whole
from penstock.system.boot import boot_id
from penstock.telemetry import metrics
from penstock.tensors import ChecksumError, Receiver, check_file, check_sums, unframe
from penstock.weights.v1 import weights_pb2 as pb

LITTLE = 0.05
"""Of a version's bytes: a difference of more is not kept beside the version."""

logger = logging.getLogger(__name__)
_mismatches = metrics.counter(metrics.DIFFERENCES_WRONG, "differences that did not make their version")


@dataclass(frozen=True)
class Held:
    """A version in the hands. file: has its bytes. way: how they came; crossed: bytes that came over a socket. relay:
    from which; empty for weight_sync."""

    manifest: pb.Manifest
    file: pathlib.Path
    way: pb.Path
    crossed: int
    descriptor: int | None = None
    relay: str = ""

    def release(self) -> None:
        """It is not needed any more; a file of our own is written again."""
        if self.descriptor is not None:
            os.close(self.descriptor)


@dataclass(frozen=True)
class _Older:
    """The version in the file that is not in the hands, and what leads from it to the one that is."""

    manifest: pb.Manifest
    chain: list[memoryview]


class Hands:
    """One receiver's. folder: for versions that are not mapped, in memory.

    host: which one this is, as the store says it; None maps nothing. bulk: weight_sync's.
    """

    def __init__(self, folder: pathlib.Path, host: str | None = None, bulk: Bulk | None = None) -> None:
        self.held: Held | None = None
        self._older: _Older | None = None
        self._slots = tuple(Slot(folder / f"version-{i}.bin") for i in range(2))
        self._host, self._bulk = host, bulk

    @staticmethod
    def here(folder: pathlib.Path, bulk: Bulk | None = None) -> "Hands":
        """With this host's own name."""
        return Hands(folder, boot_id(), bulk)

    async def take(self, channel: grpc.aio.Channel, version: PolicyVersion, model: Callable[[], bytes] = bytes) -> Held:
        """As `take_from`, from weight_sync."""
        return await self.take_from(Source(channel, self._bulk), version, model)

    async def take_from(self, source: Source, version: PolicyVersion, model: Callable[[], bytes] = bytes) -> Held:
        """Takes a version into the hands; what was in them before is there until then.

        model: as `whole.fetch`. Raises FetchFailed, and then has what it had.
        """
        with failing(version):
            answer = await described(source, version, model)
            before = self.held
            if before is not None and before.manifest.version == answer.manifest.version:
                return before
            self.held = await self._taken(source, answer)
        bytes_received.inc(self.held.crossed)
        if before is not None:
            before.release()
        return self.held

    def release(self) -> None:
        """Lets go of everything."""
        if self.held is not None:
            self.held.release()
            self.held = None
        self._unlink()

    async def _taken(self, source: Source, answer: pb.GetManifestResponse) -> Held:
        manifest = answer.manifest
        if self._host is not None and self._host == answer.boot_id and manifest.total_size:
            held = await asyncio.to_thread(_mapped, manifest, answer.path, source.relay)
            if held is not None:
                self._unlink()
                self._older = None
                return held
        before, older, self._older = self.held, self._older, None
        slot = next(each for each in self._slots if before is None or each.path != before.file)
        try:
            chain = None
            if before is not None:
                making = partial(_make, manifest, slot, before, older)
                chain = await led_on(source, manifest, before.manifest, making)
            if chain is None:
                whole = await asyncio.to_thread(slot.open, manifest.total_size)
                way = await fetch_whole(source, manifest, whole, Receiver(manifest, slot.write))
                return Held(manifest, slot.path, way, manifest.total_size, relay=source.relay)
        except BaseException:
            slot.discard()
            raise
        crossed = sum(map(len, chain))
        if before is not None and before.descriptor is None and crossed < LITTLE * manifest.total_size:
            self._older = _Older(before.manifest, chain)
        return Held(manifest, slot.path, pb.PATH_DIFFERENCE, crossed, relay=source.relay)

    def _unlink(self) -> None:
        for each in self._slots:
            each.discard()


async def led_on(
    source: Source, manifest: pb.Manifest, before: pb.Manifest, make: Callable[[list[memoryview]], None]
) -> list[memoryview] | None:
    """Makes a version of the one before by what leads from that to it; what that took, or None where it cannot be.

    make: makes it of that, in a thread; raises DifferenceError or ChecksumError where it makes another version, which
    is counted. Of a relay's differences it raises them too: it is asked for nothing more of this version.
    """
    if layout_of(before) != layout_of(manifest):
        return None
    try:
        chain = await _differences(source, manifest, before.version)
        await asyncio.to_thread(make, chain)
    except rpc.RpcError as error:
        if source.relay and not isinstance(error, rpc.errors.NotFound):
            raise
        logger.info("version %d is fetched whole: %s", manifest.version.step, error)
        return None
    except (DifferenceError, ChecksumError, DecodeError) as error:
        _mismatches.inc()
        if source.relay:
            raise
        logger.warning(
            "the differences from version %d do not make version %d, which is fetched whole: %s",
            before.version.step,
            manifest.version.step,
            error,
        )
        return None
    return chain


def _mapped(manifest: pb.Manifest, path: str, relay: str = "") -> Held | None:
    """The store's own file; None where it cannot be read here, or is no file of the version's size.

    Its name may go when the version is retired, so it is held open, and named by that. Asks the kernel to have it in
    memory by the time the engine loads it. That of a relay is read and checked. Raises ChecksumError, OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe, too, is only looked at
    except OSError as error:
        logger.info("version %d is not mapped: %s", manifest.version.step, error)
        return None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size != manifest.total_size:
        os.close(descriptor)
        logger.warning("version %d is not mapped: %s is not its file", manifest.version.step, path)
        return None
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    if relay:
        try:
            check_file(manifest, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    named = pathlib.Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    return Held(manifest, named, pb.PATH_MAPPED, 0, descriptor, relay)


async def _differences(source: Source, manifest: pb.Manifest, held: PolicyVersion) -> list[memoryview]:
    """What leads from one version to the other. Raises rpc.RpcError, DifferenceError, DecodeError."""
    fetch: Any = source.channel.unary_stream(
        "/penstock.weights.v1.WeightSyncService/FetchDifference",
        request_serializer=pb.FetchDifferenceRequest.SerializeToString,
    )
    sizes, data = list[int](), bytearray()
    request = pb.FetchDifferenceRequest(version=manifest.version, held=held)
    await rpc.ready(source.channel, source.name, within=source.ready_seconds)
    coming = source.flowing(fetch(request, timeout=FETCH_SECONDS))
    async with aclosing(coming):
        with rpc.translated():
            async for message in coming:
                piece = unframe(message)
                if piece is None:
                    decoded = pb.FetchDifferenceResponse.FromString(message)
                    sizes += decoded.sizes
                    piece = memoryview(decoded.data)
                data += piece
                if len(data) > manifest.total_size:
                    raise DifferenceError(f"more than the {manifest.total_size} bytes of the whole version")
    if sum(sizes) != len(data):
        raise DifferenceError(f"{len(data)} bytes came of {sum(sizes)}")
    whole, at, chain = memoryview(bytes(data)), 0, list[memoryview]()
    for size in sizes:
        chain.append(whole[at : at + size])
        at += size
    return chain


def _make(manifest: pb.Manifest, slot: Slot, before: Held, older: _Older | None, chain: list[memoryview]) -> None:
    """Makes a version beside the one before, and checks every tensor.

    Raises DifferenceError, ChecksumError, OSError.
    """
    layout, into = layout_of(manifest), tensors_in(manifest, slot.open(manifest.total_size))
    if older is not None and layout_of(older.manifest) == layout:
        sums = make(layout, [*older.chain, *chain], in_place(into))
    else:
        sums = make(layout, chain, beside(tensors_in(before.manifest, _bytes_of(before)), into))
    check_sums(manifest, sums)


def _bytes_of(held: Held) -> memoryview:
    with held.file.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
