"""A file of this host, in memory where there is some, for one version after the other of one size.

It stays mapped from one version to the next: the faults of a new map cost more than filling it.
"""

import pathlib

from penstock.tensors import Output


class Slot:
    """`path` has the bytes of the version that was made there last. Opened and written by one thread at a time."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._output: Output | None = None
        self._view, self._size = memoryview(b""), -1

    def open(self, size: int) -> memoryview:
        """Its bytes, to be written; what was there before stays until then, if that had this size.

        It has one byte at least: an empty file cannot be mapped by the engine. Raises OSError.
        """
        if self._output is None or size != self._size or not self.path.exists():
            self.close()
            self._output = Output(self.path, max(1, size), again=True)
            self._view, self._size = self._output.view()[:size], size
        return self._view

    def write(self, data: memoryview, offset: int) -> None:
        """Puts all of `data` at `offset`. Raises OSError."""
        assert self._output is not None, "it was opened"
        self._output.write(data, offset)

    def close(self) -> None:
        """Lets go of the file, which stays."""
        self._output, self._view, self._size = None, memoryview(b""), -1

    def discard(self) -> None:
        """Lets go of the file, and removes it."""
        self.close()
        self.path.unlink(missing_ok=True)
