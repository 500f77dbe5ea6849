"""A staged file that a learner on this host has written itself, held so that nobody can write it any more.

The kernel gives a read lease on a file that nobody has open for writing, mapped or not, and ends it when somebody
opens or cuts the file afterwards: who holds it has a file whose bytes stay what they were when they were checked, and
one that is not cut while it is mapped.

Invariants (test names): what is not the very file with the version's bytes is refused; so is a file that is still open
for writing, and one that may have changed after the check.
"""

import contextlib
import fcntl
import os
import pathlib
import stat
import weakref

from penstock.tensors import check_file
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.disk.files import mapping
from services.weight_sync.disk.leases import lease
from services.weight_sync.errors import NotWritten

Identity = tuple[int, int]
"""Device and inode of a file."""


class Held:
    """A written file under a lease, from when it is made until `release`. Raises NotWritten, and OSError.

    identity: of the file that was made. size: that it must have; None for any.
    """

    def __init__(self, path: pathlib.Path, identity: Identity, size: int | None) -> None:
        self._path, self._identity = path, identity
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise NotWritten(f"{path.name} is not the file that was made for it ({error.strerror})") from error
        self.release = weakref.finalize(self, _release, self._descriptor)
        self._check_identity()
        if not lease(self._descriptor, fcntl.F_RDLCK):
            raise NotWritten(f"{path.name} is still open for writing")
        self.size = os.fstat(self._descriptor).st_size
        if size is not None and self.size != size:
            raise NotWritten(f"{path.name} has {self.size} bytes, and its version {size}")

    def check_bytes(self, manifest: pb.Manifest) -> None:
        """Raises tensors.ChecksumError unless it has a version's bytes, OSError."""
        check_file(manifest, self._descriptor)

    def view(self) -> memoryview:
        """Its bytes. Raises OSError."""
        return mapping(self._descriptor, self.size)

    def check(self) -> None:
        """Raises NotWritten where it may have changed since it was made."""
        self._check_identity()
        if fcntl.fcntl(self._descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            raise NotWritten(f"{self._path.name} was opened for writing after it was checked")

    def _check_identity(self) -> None:
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except OSError as error:
            raise NotWritten(f"{self._path.name} is not the file that was made for it ({error.strerror})") from error
        if (found.st_dev, found.st_ino) != self._identity or not stat.S_ISREG(found.st_mode):
            raise NotWritten(f"{self._path.name} is not the file that was made for it, but another")
        if found.st_nlink != 1:
            raise NotWritten(f"{self._path.name} has another name beside")


def _release(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # it had none
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    os.close(descriptor)
