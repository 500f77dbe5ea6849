"""Takes a version's bytes and checks every tensor: as a stream, on the way, or where they lie in one piece.

A piece of a stream is written and hashed while it is in the processor's cache, and in a thread while the next one is
received: `Overlapped`. Writing is a system call (`Output`), not a copy into a map: neither holds Python's lock.
"""

import asyncio
import bisect
import errno
import mmap
import os
import pathlib
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType

from penstock.tensors.manifest import Buffer, hasher, on_cores
from penstock.weights.v1 import weights_pb2 as pb

PIECE_BYTES = 1 << 20
BLOCK = 512
"""Bytes that `st_blocks` counts."""


class ChecksumError(ValueError):
    """A tensor's bytes are not those of the manifest."""


def check_sums(manifest: pb.Manifest, sums: Iterable[bytes]) -> None:
    """Raises ChecksumError unless these are the checksums of a version's tensors."""
    for tensor, found in zip(manifest.tensors, sums, strict=True):
        if found != tensor.checksum:
            raise _differs(tensor)


def check_file(manifest: pb.Manifest, descriptor: int) -> None:
    """Raises ChecksumError unless a version's bytes, in a file, are those of its manifest.

    They are read, not mapped: the faults of a new map cost more than the copy, which stays in the processor's cache.
    """

    def one(tensor: pb.Tensor) -> bytes:
        sum_, piece, at, end = hasher(), memoryview(bytearray(PIECE_BYTES)), tensor.offset, tensor.offset + tensor.size
        while at < end and (read := os.preadv(descriptor, [piece[: end - at]], at)):
            sum_.update(piece[:read])
            at += read
        return sum_.digest()

    check_sums(manifest, on_cores(one, manifest.tensors, manifest.total_size))


def _differs(tensor: pb.Tensor) -> ChecksumError:
    return ChecksumError(f"tensor {tensor.name!r}: the checksum of its {tensor.size} bytes differs")


class NoTensor(ValueError):
    """No tensor begins where the next bytes are said to belong."""


class TwiceError(ValueError):
    """A tensor comes from two sides, or once more after it was checked."""


class Arrived:
    """Which tensors of a version have come, whoever brings them; from any thread.

    Invariant (test name): a tensor that was checked is never written again.
    """

    def __init__(self, manifest: pb.Manifest) -> None:
        self._manifest, self._lock = manifest, threading.Lock()
        self._missing = {index for index, tensor in enumerate(manifest.tensors) if tensor.size}
        self._claimed: dict[int, Receiver] = {}

    @property
    def complete(self) -> bool:
        """Whether all have; one without a byte always has."""
        return not self._missing

    @property
    def received(self) -> int:
        """The bytes of those that have."""
        with self._lock:
            return self._manifest.total_size - sum(self._manifest.tensors[index].size for index in self._missing)

    def claim(self, by: "Receiver", first: int, end: int) -> None:
        """Tensors from number `first` up to byte `end` are brought by somebody, and by nobody else. Raises
        TwiceError."""
        tensors = self._manifest.tensors
        with self._lock:
            if by.closed:
                raise TwiceError("what comes of a stream that is over may have come by another")
            while first < len(tensors) and tensors[first].offset < end:
                if tensors[first].size and (
                    first not in self._missing or self._claimed.setdefault(first, by) is not by
                ):
                    raise TwiceError(f"tensor {tensors[first].name!r} comes twice")
                first += 1

    def has(self, index: int) -> None:
        """One has come, and was checked."""
        with self._lock:
            self._missing.discard(index)
            self._claimed.pop(index, None)

    def let_go(self, by: "Receiver") -> None:
        """Somebody brings no more, from now on."""
        with self._lock:
            by.closed = True
            for index in [index for index, claimed in self._claimed.items() if claimed is by]:
                del self._claimed[index]


class Receiver:
    """A sink of the manifest's size that fills from the front, or from any tensor's begin.

    Invariant (test name): it is complete only when every tensor has arrived with the manifest's checksum.

    Args:
        write: puts bytes at an offset.
        arrived: of the same manifest, where several receivers share the work; each tensor is one receiver's then.
    """

    def __init__(
        self, manifest: pb.Manifest, write: Callable[[memoryview, int], None], arrived: Arrived | None = None
    ) -> None:
        self.received, self.closed = 0, False
        self._manifest, self._write, self._arrived = manifest, write, arrived or Arrived(manifest)
        self._at, self._next, self._hash = 0, 0, hasher()

    @property
    def complete(self) -> bool:
        """Whether every tensor has arrived and been checked, here or elsewhere."""
        return self._arrived.complete

    def check_whole(self) -> None:
        """Raises NoTensor where one has come in part."""
        tensors = self._manifest.tensors
        if self._next < len(tensors) and self._at > tensors[self._next].offset:
            raise NoTensor(f"tensor {tensors[self._next].name!r} has come in part: its other bytes are next")

    def seek(self, offset: int) -> None:
        """What is fed next begins there. Raises NoTensor where no tensor does, or where one has come in part."""
        tensors = self._manifest.tensors
        self.check_whole()
        found = bisect.bisect_left(tensors, offset, key=lambda tensor: tensor.offset)
        if found == len(tensors) or tensors[found].offset != offset:
            raise NoTensor(f"no tensor of the version begins at byte {offset}")
        self._at, self._next = offset, found

    def feed(self, data: Buffer) -> int:
        """Takes the next bytes; gives the number received.

        Raises ChecksumError, TwiceError, or ValueError if there are more than the manifest has, or what `write` raises;
        then nothing more may be fed.
        """
        view = memoryview(data)
        end = self._at + view.nbytes
        if end > self._manifest.total_size:
            raise ValueError(f"{end} bytes received, the version has {self._manifest.total_size}")
        self._arrived.claim(self, self._next, end)
        self._write(view, self._at)
        self.take(view)
        return self.received

    def take(self, view: memoryview) -> None:
        """Checks the next bytes, which are where they belong already. Raises ChecksumError."""
        while view:
            tensor = self._manifest.tensors[self._next]
            part = view[: tensor.offset + tensor.size - self._at]
            self._hash.update(part)
            self._at, self.received, view = self._at + part.nbytes, self.received + part.nbytes, view[part.nbytes :]
            if self._at < tensor.offset + tensor.size:
                return
            if self._hash.digest() != tensor.checksum:
                raise _differs(tensor)
            self._arrived.has(self._next)
            self._next, self._hash = self._next + 1, hasher()

    def close(self) -> None:
        """Nothing more is fed: what came in part may come from elsewhere."""
        self._arrived.let_go(self)


class Output:
    """A file of a version's size, written from any thread; closed by `close`, or when nobody holds it any more.

    The room is taken at once. again: whether a file of that size may be written over; whoever does so knows that nobody
    reads it. identity: device and inode. Raises OSError.
    """

    def __init__(self, path: pathlib.Path, size: int, *, again: bool = False) -> None:
        kept = again and path.is_file() and path.stat().st_size == size
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if kept else os.O_TRUNC)
        self._descriptor = os.open(path, flags, 0o644)
        self._closing = weakref.finalize(self, os.close, self._descriptor)
        self._size, self._writers, self._idle = size, 0, threading.Condition()
        found = os.fstat(self._descriptor)
        if size and not (kept and found.st_blocks * BLOCK >= size):
            os.posix_fallocate(self._descriptor, 0, size)
        self.identity = (found.st_dev, found.st_ino)

    def write(self, data: memoryview, offset: int) -> None:
        """Puts all of `data` at `offset`. Raises OSError."""
        with self.opened() as put:
            put(data, offset)

    @contextmanager
    def opened(self) -> Iterator[Callable[[memoryview, int], None]]:
        """What writes as `write` does, from several threads at once; it is not closed meanwhile."""
        with self._idle:
            descriptor = self._opened()
            self._writers += 1
        try:
            yield partial(_put, descriptor)
        finally:
            with self._idle:
                self._writers -= 1
                self._idle.notify_all()

    def view(self) -> memoryview:
        """Its bytes, to be changed in place. Raises OSError."""
        with self._idle:
            return memoryview(mmap.mmap(self._opened(), self._size)) if self._size else memoryview(bytearray())

    def close(self) -> None:
        """Nothing is written through it any more, but by who has a `view`; waits for who is writing."""
        with self._idle:
            self._idle.wait_for(lambda: not self._writers)
            self._closing()

    def _opened(self) -> int:
        if not self._closing.alive:  # its number may be another file's by now
            raise OSError(errno.EBADF, "the file is closed")
        return self._descriptor


def _put(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


class Overlapped:
    """Calls `feed` in a thread for one piece after the other, while its user receives the next.

        async with Overlapped(receiver.feed) as feeding:
            async for piece in stream:
                await feeding.put(piece)

    An error of `feed` comes out of the next `put`, or of the end of the block. At the end nothing is being fed.
    """

    def __init__(self, feed: Callable[[memoryview], int]) -> None:
        self._feed = feed
        self._under_way: asyncio.Future[int] | None = None
        self.received = 0

    async def put(self, data: memoryview) -> None:
        """Begins to feed a piece; waits for the one before it."""
        await self.settled()
        self._under_way = asyncio.ensure_future(asyncio.to_thread(self._feed, data))

    async def settled(self) -> None:
        """Waits until nothing is being fed."""
        if self._under_way is not None:
            self.received = await asyncio.shield(self._under_way)
            self._under_way = None

    async def __aenter__(self) -> "Overlapped":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.settled()
        finally:
            if self._under_way is not None:
                await asyncio.wait([self._under_way])
