"""A version's files, and what is held of them in memory."""

import dataclasses
import mmap
import os
import pathlib

from penstock.tensors import check_file
from penstock.weights.v1 import weights_pb2 as pb


@dataclasses.dataclass(frozen=True)
class Stored:
    """A committed version. `view` maps its bytes; it stays valid for whoever holds it after the version was retired.
    `difference` maps what makes it of its parent. `way`: how it came, if this process knows."""

    manifest: pb.Manifest
    path: pathlib.Path
    view: memoryview
    difference: memoryview | None = None
    way: pb.Path = pb.PATH_UNSPECIFIED


def opened(manifest: pb.Manifest, path: pathlib.Path, way: pb.Path = pb.PATH_UNSPECIFIED) -> Stored:
    """A committed version whose bytes are in `path`. Raises OSError."""
    beside = path.with_suffix(".difference")
    difference = mapped(beside, beside.stat().st_size) if beside.exists() else None
    return Stored(manifest, path, mapped(path, manifest.total_size), difference, way)


def opened_checked(manifest: pb.Manifest, path: pathlib.Path) -> Stored:
    """As `opened`, with every checksum. Raises OSError, ValueError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != manifest.total_size:
            raise ValueError(f"{size} of {manifest.total_size} bytes")
        check_file(manifest, file.fileno())
    return opened(manifest, path)


def mapped(path: pathlib.Path, size: int) -> memoryview:
    """The bytes of a file. size: whether it has any. Raises OSError."""
    if not size:
        return memoryview(b"")
    with path.open("rb") as file:
        return mapping(file.fileno(), size)


def mapping(descriptor: int, size: int) -> memoryview:
    """As `mapped`, of an open file."""
    return memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)) if size else memoryview(b"")
