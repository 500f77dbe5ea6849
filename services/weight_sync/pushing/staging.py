"""The versions that are being pushed: what has come of each, and whether it may be taken.

    begin -> feed ...                         a stream of all bytes
          -> part, seek, feed ...             several streams at once, of some tensors each
          -> feed_difference ..., apply_difference    a stream of what makes it of its parent
          -> take_written                     either of them, written into its file by a learner on this host

Invariants (test names): what is being pushed stays within the quota; a difference makes its version of its parent, or
nothing; what was taken as a learner wrote it does not change until it is committed; what comes of an attempt that was
begun again touches nothing of the newer one.
"""

import dataclasses
import errno
import os
import pathlib
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.differences import BLOCK_BYTES, Block, DifferenceError, layout_of, make
from penstock.tensors import Arrived, ChecksumError, Output, Receiver, check_sums
from penstock.tensors.manifest import Buffer
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.chains import Get, parent_of
from services.weight_sync.disk.files import mapped
from services.weight_sync.disk.leases import can_lease
from services.weight_sync.disk.spares import Spare
from services.weight_sync.errors import NoParent, NoRoom, NotStaged, Refused, StoreError
from services.weight_sync.pushing.written import Held

STAGED = 2
"""Versions that are pushed at once. A learner pushes one after the other; the second is that of one started again."""

_Errors = type[Exception] | tuple[type[Exception], ...]


@dataclasses.dataclass
class Staged:
    """A version being pushed.

    output: of its bytes. arrived: which tensors have come, by whatever stream; receiver: of the one that has all of
    them. difference: of what makes it of its parent; differing: bytes of that which have come.
    applied: whether it was made of its parent. held: what a learner on this host has written, once it is taken.
    way: how it comes. attempt: the number of this try to push it, which no other has, over restarts.
    """

    manifest: pb.Manifest
    path: pathlib.Path
    output: Output
    arrived: Arrived
    receiver: Receiver
    difference: Output | None = None
    differing: int = 0
    applied: bool = False
    held: Held | None = None
    way: pb.Path = pb.PATH_WHOLE
    attempt: int = dataclasses.field(default_factory=lambda: secrets.randbits(63) + 1)

    @property
    def difference_path(self) -> pathlib.Path:
        """Where what makes it of its parent lies."""
        return self.path.with_suffix(".difference.staging")

    @property
    def complete(self) -> bool:
        """Whether every tensor is there and was checked."""
        return self.applied or self.held is not None or self.arrived.complete

    @property
    def came(self) -> int:
        """Bytes that have come as streams."""
        return max(self.receiver.received, self.arrived.received)

    def discard(self) -> None:
        """Removes its files."""
        self.receiver.close()  # which would keep the file of a tensor that came in part
        if self.held is not None:
            self.held.release()
        self.path.unlink(missing_ok=True)
        self.difference_path.unlink(missing_ok=True)


class Staging:
    """Those below a folder. Not safe for concurrent pushes of one version.

    get: a kept version. quota: bytes that they may take together. spare: the file that the next one may have.
    """

    def __init__(self, directory: pathlib.Path, get: Get, quota: int) -> None:
        self._directory, self._get, self._quota = directory, get, quota
        self._staged: dict[tuple[int, int], Staged] = {}
        self._leases = can_lease(directory)
        self.spare = Spare(directory, self._leases)

    @property
    def manifests(self) -> list[pb.Manifest]:
        """Of all of them."""
        return [staged.manifest for staged in self._staged.values()]

    def begin(self, manifest: pb.Manifest) -> int:
        """Opens a version, and gives the attempt's number; what was staged of it before is discarded, and the oldest
        one where there are too many.

        Raises NoRoom.
        """
        version = manifest.version
        self.abort(version)
        while len(self._staged) >= STAGED:
            epoch, step = min(self._staged)
            self.abort(PolicyVersion(epoch=epoch, step=step))
        self._within_quota(version.step, manifest.total_size)
        path = self._directory / f"{stem(version)}.staging"
        try:
            self.spare.give(path, manifest.total_size)
            output = Output(path, manifest.total_size, again=True)
        except OSError as error:
            path.unlink(missing_ok=True)
            needed = f"step {version.step} needs {manifest.total_size} bytes"
            raise NoRoom(f"disk full: the version store cannot hold it: {needed} ({error.strerror})") from error
        arrived = Arrived(manifest)
        staged = Staged(manifest, path, output, arrived, Receiver(manifest, output.write, arrived))
        self._staged[version.epoch, version.step] = staged
        return staged.attempt

    def places(self, version: PolicyVersion) -> tuple[pathlib.Path, pathlib.Path | None] | None:
        """The files that a learner on this host may write instead of pushing: the version's, and that of what makes it
        of its parent, where that is kept. None where nobody could tell whether they are still written.

        Raises NoRoom, NotStaged.
        """
        staged = self.find(version)
        if not self._leases:
            return None
        try:
            self._difference_of(staged)
        except NoParent:
            return staged.path.absolute(), None
        return staged.path.absolute(), staged.difference_path.absolute()

    def take_written(self, version: PolicyVersion, written: pb.Written, attempt: int = 0) -> None:
        """Takes what a learner on this host has written into a version's files, and checks it as a push is checked on
        its way; nothing where the version is committed. After an error it is not staged any more.
        attempt: as for `feed`.

        Raises NoParent, NoRoom, NotStaged, NotWritten, DifferenceError, tensors.ChecksumError.
        """
        if not self.has(version) and self._get(version) is not None:
            return
        staged = self.find(version, attempt)
        if staged.held is not None:
            return  # and the commit that it was for went wrong
        with self._dropping(staged):
            held = self._written(staged) if written == pb.WRITTEN_TENSORS else self._written_difference(staged)
        if self._staged.get((version.epoch, version.step)) is not staged:
            raise NotStaged(f"step {version.step} was begun again while it was checked")
        staged.held, staged.way = held, pb.PATH_MAPPED

    def part(self, version: PolicyVersion, attempt: int) -> "Part":
        """What takes some of a version's tensors, beside others. Raises NotStaged, Refused."""
        return Part(self, version, attempt, self._open(version, attempt))

    def feed(self, version: PolicyVersion, data: memoryview, attempt: int = 0) -> int:
        """Takes the next bytes of a version; gives the bytes received. attempt: whose they are, 0 for whichever there
        is. After a ChecksumError it is not staged.

        Raises NoRoom, NotStaged, Refused, ValueError for too many, tensors.{ChecksumError, TwiceError}.
        """
        staged = self._open(version, attempt)
        with self._dropping(staged, but=ValueError):
            return staged.receiver.feed(data)

    def feed_difference(self, version: PolicyVersion, data: memoryview, attempt: int = 0) -> int:
        """Takes the next bytes of what makes a version of its parent; gives the bytes received. attempt: as for `feed`.

        Raises NoParent, NoRoom, NotStaged, Refused; DifferenceError for more bytes than a whole version has.
        """
        staged = self._open(version, attempt)
        with self._dropping(staged, but=(ValueError, StoreError)):
            output = self._difference_of(staged)
            self._check_difference(staged, staged.differing + data.nbytes)
            output.write(data, staged.differing)
        staged.differing += data.nbytes
        return staged.differing

    def apply_difference(self, version: PolicyVersion, attempt: int = 0) -> None:
        """Makes a version of its parent, and checks every tensor. After an error but NoParent it is not staged.
        attempt: as for `feed`.

        Raises NoParent, NoRoom, NotStaged, Refused, DifferenceError, tensors.ChecksumError.
        """
        staged = self._open(version, attempt)
        with self._dropping(staged, but=NoParent):
            self._make(staged, mapped(staged.difference_path, staged.differing))
        staged.way = pb.PATH_DIFFERENCE

    def has(self, version: PolicyVersion) -> bool:
        """Whether it is being pushed."""
        return (version.epoch, version.step) in self._staged

    def find(self, version: PolicyVersion, attempt: int = 0) -> Staged:
        """Raises NotStaged, also where another attempt than `attempt` is under way; 0: whichever there is."""
        staged = self._staged.get((version.epoch, version.step))
        if staged is None:
            raise NotStaged(f"step {version.step} of epoch {version.epoch} is not being pushed")
        if attempt not in (0, staged.attempt):
            raise NotStaged(f"step {version.step} was begun again: this is of an older attempt to push it")
        return staged

    def attempt(self, version: PolicyVersion, attempt: int = 0) -> int:
        """The number of the attempt under way. Raises NotStaged, as `find`."""
        return self.find(version, attempt).attempt

    def check_held(self, staged: Staged) -> None:
        """Raises NotWritten where what a learner wrote may have changed since it was taken."""
        if staged.held is not None:
            with self._dropping(staged):
                staged.held.check()

    def committed(self, version: PolicyVersion) -> None:
        """Forgets a version whose files have got their names, and those that could not be committed any more."""
        self._staged.pop((version.epoch, version.step)).discard()
        for epoch, step in list(self._staged):
            if epoch < version.epoch or step <= version.step:
                self.abort(PolicyVersion(epoch=epoch, step=step))

    def abort(self, version: PolicyVersion, attempt: int = 0) -> None:
        """Forgets a version, if it is staged; of an attempt, if that is under way; 0: whichever is."""
        staged = self._staged.get((version.epoch, version.step))
        if staged is not None and attempt in (0, staged.attempt):
            self._staged.pop((version.epoch, version.step), None)  # by another thread, perhaps
            staged.discard()

    def _open(self, version: PolicyVersion, attempt: int) -> Staged:
        """One of which more may come: nothing changes what was made of its parent, or taken as it was written."""
        staged = self.find(version, attempt)
        if staged.applied or staged.held is not None:
            raise Refused(f"all of step {version.step} has come: begin it again to push it again")
        return staged

    def _written(self, staged: Staged) -> Held:
        staged.output.close()
        held = Held(staged.path, staged.output.identity, staged.manifest.total_size)
        held.check_bytes(staged.manifest)
        return held

    def _written_difference(self, staged: Staged) -> Held:
        output = self._difference_of(staged)
        output.close()
        held = Held(staged.difference_path, output.identity, None)
        self._check_difference(staged, held.size)
        staged.differing = held.size
        self._make(staged, held.view())
        return held

    def _make(self, staged: Staged, difference: memoryview) -> None:
        """Block by block through memory that stays in the processor's cache: a map of either file would cost more."""
        manifest, own = staged.manifest, threading.local()
        parent = parent_of(self._get, manifest)
        try:
            old = parent.path.open("rb")
        except FileNotFoundError as error:
            raise NoParent(f"step {parent.manifest.version.step} was retired meanwhile") from error

        with old, staged.output.opened() as write:

            def start(block: Block) -> memoryview:
                if not hasattr(own, "memory"):
                    own.memory = memoryview(bytearray(BLOCK_BYTES))
                memory: memoryview = own.memory[: block.size]
                if (
                    os.preadv(old.fileno(), [memory], parent.manifest.tensors[block.tensor].offset + block.start)
                    < block.size
                ):
                    raise OSError(errno.EIO, f"{parent.path.name} is cut")
                return memory

            def end(block: Block, memory: memoryview) -> None:
                write(memory, manifest.tensors[block.tensor].offset + block.start)

            check_sums(manifest, make(layout_of(manifest), [difference], start, end))
        staged.applied = True

    def _difference_of(self, staged: Staged) -> Output:
        """The file for what makes a version of its parent. Raises NoParent, NoRoom."""
        if staged.difference is None:
            parent_of(self._get, staged.manifest)
            with self._dropping(staged):
                staged.difference = Output(staged.difference_path, 0)
        return staged.difference

    def _check_difference(self, staged: Staged, size: int) -> None:
        """Raises DifferenceError, NoRoom for one of more bytes than may be."""
        if size > staged.manifest.total_size:
            raise DifferenceError(f"more than the {staged.manifest.total_size} bytes of the whole version")
        self._within_quota(staged.manifest.version.step, size - staged.differing)

    def _within_quota(self, step: int, more: int) -> None:
        held = sum(staged.manifest.total_size + staged.differing for staged in self._staged.values())
        if held + more > self._quota:
            raise NoRoom(
                f"step {step} needs {more} bytes, and {held} of the {self._quota} for versions being pushed are taken "
                "(--staged-gib)"
            )

    @contextmanager
    def _dropping(self, staged: Staged, but: _Errors = ()) -> Iterator[None]:
        """Forgets a version where something goes wrong in the block, but not one that was begun again meanwhile; `but`:
        what it outlives. Raises NoRoom."""
        version = staged.manifest.version

        def drop() -> None:
            self.abort(version, staged.attempt)

        try:
            yield
        except ChecksumError:
            drop()
            raise
        except but:
            raise
        except OSError as error:
            drop()
            raise NoRoom(f"disk full: bytes of step {version.step} cannot be written ({error.strerror})") from error
        except Exception:
            drop()
            raise


class Part(Receiver):
    """Takes some of a version's tensors, beside others. It keeps no file of an attempt that is over."""

    def __init__(self, staging: Staging, version: PolicyVersion, attempt: int, staged: Staged) -> None:
        self._staging, self._of = staging, (version, attempt)
        super().__init__(staged.manifest, self._put, staged.arrived)

    def feed(self, data: Buffer) -> int:
        """As a receiver, and as `Staging.feed`."""
        staged = self._staging._open(*self._of)
        with self._staging._dropping(staged, but=(ValueError, StoreError)):
            return super().feed(data)

    def _put(self, data: memoryview, offset: int) -> None:
        self._staging._open(*self._of).output.write(data, offset)


def stem(version: PolicyVersion) -> str:
    """What the names of a version's files begin with."""
    return f"{version.step:08d}-{version.epoch:04d}"
