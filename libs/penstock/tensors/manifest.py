"""What a version consists of: names, shapes, types, byte ranges, checksums, what adapters belong to, and a digest.

Checksums of tensors are XXH3-128, which is as fast as memory: they guard against accidents. What protects against
people is who may push, and TLS. The digest over them is SHA-256, so versions are told apart for good. xxhash lets other
threads run meanwhile, so tensors are hashed on several cores.
"""

import hashlib
import math
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import xxhash

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.weights.v1 import weights_pb2 as pb

T = TypeVar("T")
R = TypeVar("R")

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

MOST_BYTES = 2**62  # of a version: file offsets are signed
BASE_BYTES = 32  # of SHA-256
MOST_THREADS = 4
PARALLEL_BYTES = 8 << 20

Buffer = bytes | bytearray | memoryview


class Row(NamedTuple):
    """What a manifest says of a tensor, but its place."""

    name: str
    dtype: str
    shape: Sequence[int]
    size: int
    checksum: bytes


class ManifestError(ValueError):
    """A manifest that contradicts itself. The text names the field, and its tensor."""


def hasher() -> xxhash.xxh3_128:
    """An empty checksum, for bytes that come in pieces; its `digest()` ends it."""
    return xxhash.xxh3_128()


def checksum(data: Buffer) -> bytes:
    """The XXH3-128 of a tensor's bytes, 16 bytes, as they are written (big endian)."""
    return xxhash.xxh3_128_digest(data)


def checksums(buffers: Sequence[Buffer]) -> list[bytes]:
    """The checksum of each buffer, on several cores where that is worth a thread."""
    return on_cores(checksum, buffers, sum(memoryview(b).nbytes for b in buffers))


def on_cores(work: Callable[[T], R], parts: Iterable[T], size: int) -> list[R]:
    """What comes of each part, on several cores where `size` bytes are worth a thread."""
    if size < PARALLEL_BYTES:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), "tensors") as threads:
        return list(threads.map(work, parts))


def digest(tensors: Iterable[pb.Tensor], adapters: pb.Adapters | None = None) -> bytes:
    """SHA-256 as common.proto defines it (PolicyVersion.digest): over every tensor in order, and over what adapters are
    of, where the tensors are adapters. Equal digests mean equal weights."""
    whole = hashlib.sha256(usedforsecurity=False)
    for t in tensors:
        whole.update(f"{t.name}|{t.dtype}|{','.join(map(str, t.shape))}|".encode())
        whole.update(t.checksum)
    if adapters is None:
        return whole.digest()
    scaled = whole.digest() + struct.pack(">d", adapters.scale) + adapters.base
    return hashlib.sha256(scaled, usedforsecurity=False).digest()


def make_manifest(
    epoch: int,
    step: int,
    tensors: Iterable[tuple[str, str, Sequence[int], Buffer]],
    parent: PolicyVersion | None = None,
    adapters: pb.Adapters | None = None,
) -> pb.Manifest:
    """The manifest of (name, dtype, shape, bytes) tensors laid out one after the other in this order."""
    listed = list(tensors)
    sums = checksums([data for *_, data in listed])
    rows = [
        Row(name, dtype, shape, memoryview(data).nbytes, sum_)
        for (name, dtype, shape, data), sum_ in zip(listed, sums, strict=True)
    ]
    return manifest_of(epoch, step, rows, parent, adapters)


def manifest_of(
    epoch: int,
    step: int,
    rows: Iterable[Row],
    parent: PolicyVersion | None = None,
    adapters: pb.Adapters | None = None,
) -> pb.Manifest:
    """The manifest of tensors whose bytes may be elsewhere, laid out one after the other in this order."""
    manifest = pb.Manifest(adapters=adapters)
    offset = 0
    for name, dtype, shape, size, sum_ in rows:
        manifest.tensors.add(name=name, dtype=dtype, shape=shape, offset=offset, size=size, checksum=sum_)
        offset += size
    manifest.total_size = offset
    manifest.version.epoch = epoch
    manifest.version.step = step
    manifest.version.digest = digest(manifest.tensors, adapters)
    if parent is not None:
        manifest.parent.CopyFrom(parent)
    manifest.created_at.GetCurrentTime()
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: pb.Manifest) -> None:
    """Raises ManifestError unless ranges are gapless, sizes fit shapes, names are unique, adapters can be applied and
    the digest is right."""
    offset, names = 0, set()
    for t in manifest.tensors:
        if t.name in names:
            raise ManifestError(f"tensors: {t.name!r} is named twice")
        names.add(t.name)
        if t.dtype not in ITEM_BYTES:
            raise ManifestError(f"tensors[{t.name}].dtype: {t.dtype!r} is not one of {', '.join(ITEM_BYTES)}")
        expected = math.prod(t.shape) * ITEM_BYTES[t.dtype]
        if t.size != expected:
            raise ManifestError(f"tensors[{t.name}].size: {t.size} bytes, but shape {list(t.shape)} needs {expected}")
        if t.offset != offset:
            raise ManifestError(f"tensors[{t.name}].offset: {t.offset}, expected {offset} (no gaps, in order)")
        offset += t.size
        if not t.size and t.checksum != checksum(b""):
            raise ManifestError(f"tensors[{t.name}].checksum: is not that of a tensor without a byte")
    if offset > MOST_BYTES:
        raise ManifestError(f"total_size: {offset} bytes; a version has at most {MOST_BYTES}")
    if manifest.total_size != offset:
        raise ManifestError(f"total_size: {manifest.total_size}, but the tensors hold {offset} bytes")
    adapters = manifest.adapters if manifest.HasField("adapters") else None
    if adapters is not None:
        _check_adapters(adapters)
    if manifest.version.digest == digest(manifest.tensors, adapters):
        return
    if adapters is not None and manifest.version.digest == digest(manifest.tensors):
        raise ManifestError(
            "version.digest: leaves adapters.scale and adapters.base out, as an older Penstock made it; learner, "
            "weight_sync, relays and engines must be of one release"
        )
    raise ManifestError(
        f"version.digest: is not that of the tensors{' and the adapters' if adapters is not None else ''}"
    )


def _check_adapters(adapters: pb.Adapters) -> None:
    if not (math.isfinite(adapters.scale) and adapters.scale > 0):
        raise ManifestError(f"adapters.scale: {adapters.scale:g} is no number above 0 that is finite")
    if len(adapters.base) != BASE_BYTES:
        raise ManifestError(f"adapters.base: {len(adapters.base)} bytes, and a model's digest has {BASE_BYTES}")
