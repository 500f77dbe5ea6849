"""Takes a version's bytes as a stream and checks every tensor as soon as it is whole."""

from collections.abc import Callable

from penstock.tensors.manifest import Buffer, checksum
from penstock.weights.v1 import weights_pb2 as pb


class ChecksumError(ValueError):
    """A tensor's bytes are not those of the manifest."""


class Receiver:
    """A buffer of the manifest's size that fills from the front.

    Invariant: `on_tensor` is called once per tensor, in the manifest's order, only with bytes whose checksum is right.
    """

    def __init__(
        self,
        manifest: pb.Manifest,
        buffer: memoryview,
        on_tensor: Callable[[pb.Tensor, memoryview], None] | None = None,
    ) -> None:
        if buffer.nbytes != manifest.total_size:
            raise ValueError(f"buffer of {buffer.nbytes} bytes for a version of {manifest.total_size}")
        self.received = 0
        self._manifest, self._buffer, self._on_tensor = manifest, buffer, on_tensor
        self._next = 0

    @property
    def complete(self) -> bool:
        """Whether every tensor has arrived and been checked."""
        return self._next == len(self._manifest.tensors)

    def feed(self, data: Buffer) -> None:
        """Takes the next bytes. Raises ChecksumError, or ValueError if there are more than the manifest has."""
        view = memoryview(data)
        end = self.received + view.nbytes
        if end > self._manifest.total_size:
            raise ValueError(f"{end} bytes received, the version has {self._manifest.total_size}")
        self._buffer[self.received : end] = view
        self.received = end
        self._check_arrived()

    def _check_arrived(self) -> None:
        tensors = self._manifest.tensors
        while self._next < len(tensors):
            tensor = tensors[self._next]
            if tensor.offset + tensor.size > self.received:
                return
            data = self._buffer[tensor.offset : tensor.offset + tensor.size]
            if checksum(data) != tensor.checksum:
                raise ChecksumError(f"tensor {tensor.name!r}: the checksum of its {tensor.size} bytes differs")
            if self._on_tensor is not None:
                self._on_tensor(tensor, data)
            self._next += 1
