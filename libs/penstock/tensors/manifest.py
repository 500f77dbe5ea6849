"""What a version consists of: names, shapes, types, byte ranges, checksums, and one digest over all of it."""

import hashlib
import math
from collections.abc import Iterable, Sequence

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.weights.v1 import weights_pb2 as pb

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

Buffer = bytes | bytearray | memoryview


class ManifestError(ValueError):
    """A manifest that contradicts itself. The text names the tensor and the field."""


def checksum(data: Buffer) -> bytes:
    """BLAKE2b-128 of a tensor's bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def digest(tensors: Iterable[pb.Tensor]) -> bytes:
    """BLAKE2b-256 over "name|dtype|shape|checksum" of every tensor in order: equal digests mean equal weights."""
    whole = hashlib.blake2b(digest_size=32)
    for t in tensors:
        whole.update(f"{t.name}|{t.dtype}|{','.join(map(str, t.shape))}|".encode())
        whole.update(t.checksum)
    return whole.digest()


def make_manifest(
    epoch: int,
    step: int,
    tensors: Iterable[tuple[str, str, Sequence[int], Buffer]],
    parent: PolicyVersion | None = None,
) -> pb.Manifest:
    """The manifest of (name, dtype, shape, bytes) tensors laid out one after the other in this order."""
    manifest = pb.Manifest()
    offset = 0
    for name, dtype, shape, data in tensors:
        size = memoryview(data).nbytes
        manifest.tensors.add(name=name, dtype=dtype, shape=shape, offset=offset, size=size, checksum=checksum(data))
        offset += size
    manifest.total_size = offset
    manifest.version.epoch = epoch
    manifest.version.step = step
    manifest.version.digest = digest(manifest.tensors)
    if parent is not None:
        manifest.parent.CopyFrom(parent)
    manifest.created_at.GetCurrentTime()
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: pb.Manifest) -> None:
    """Raises ManifestError unless ranges are gapless, sizes fit shapes, names are unique and the digest is right."""
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
    if manifest.total_size != offset:
        raise ManifestError(f"total_size: {manifest.total_size}, but the tensors hold {offset} bytes")
    if manifest.version.digest != digest(manifest.tensors):
        raise ManifestError("version.digest: is not the digest of the tensors")
