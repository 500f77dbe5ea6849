"""A version's files, and what is held of them in memory."""

import dataclasses
import mmap
import pathlib

from penstock.tensors import Output, Receiver, checksums
from penstock.weights.v1 import weights_pb2 as pb


@dataclasses.dataclass
class Staged:
    """A version being pushed. output: of its bytes. difference: what came of that, where it comes as one."""

    manifest: pb.Manifest
    path: pathlib.Path
    output: Output
    receiver: Receiver
    difference: Output | None = None
    differing: int = 0

    @property
    def difference_path(self) -> pathlib.Path:
        return self.path.with_suffix(".difference.staging")


@dataclasses.dataclass(frozen=True)
class Stored:
    """A committed version. `view` maps its bytes; it stays valid for whoever holds it after the version was retired.
    `difference` maps what makes it of its parent."""

    manifest: pb.Manifest
    path: pathlib.Path
    view: memoryview
    difference: memoryview | None = None


def opened(manifest: pb.Manifest, path: pathlib.Path) -> Stored:
    """A committed version whose bytes are in `path`. Raises OSError."""
    beside = path.with_suffix(".difference")
    difference = mapped(beside, beside.stat().st_size) if beside.exists() else None
    return Stored(manifest, path, mapped(path, manifest.total_size), difference)


def opened_checked(manifest: pb.Manifest, path: pathlib.Path) -> Stored:
    """As `opened`, with every checksum. Raises OSError, ValueError."""
    stored = opened(manifest, path)
    if stored.view.nbytes != manifest.total_size:
        raise ValueError(f"{stored.view.nbytes} of {manifest.total_size} bytes")
    sums = checksums([stored.view[t.offset : t.offset + t.size] for t in manifest.tensors])
    for t, found in zip(manifest.tensors, sums, strict=True):
        if found != t.checksum:
            raise ValueError(f"the checksum of {t.name!r} differs")
    return stored


def mapped(path: pathlib.Path, size: int) -> memoryview:
    """The bytes of a file. size: whether it has any. Raises OSError."""
    if not size:
        return memoryview(b"")
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
