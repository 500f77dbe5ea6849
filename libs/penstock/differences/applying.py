"""A version made of the one before and what changed, block by block; of several differences, in one go."""

from collections.abc import Iterator, Sequence

from penstock.differences import records as codec
from penstock.differences.encoding import HEAD, MAGIC
from penstock.differences.layout import Layout, blocks
from penstock.differences.records import DifferenceError


def applied(layout: Layout, old: Sequence[memoryview], differences: Sequence[memoryview]) -> Iterator[memoryview]:
    """The bytes of the last version in pieces, in order: `old` with one difference after the other.

    A piece is only good until the next one is asked for. Raises DifferenceError where one is none of this layout, also
    behind the last piece; that the bytes are the version's own is for its checksums to say.
    """
    records = [_Records(difference) for difference in differences]
    for block in blocks(layout, old):
        data = old[block.tensor][block.start : block.start + block.size]
        for each in records:
            kind, payload = each.next()
            data = codec.apply(kind, payload, data, block.item)
        yield data
    for each in records:
        each.end()


class _Records:
    """A difference's records, one after the other."""

    def __init__(self, data: memoryview) -> None:
        if bytes(data[: len(MAGIC)]) != MAGIC:
            raise DifferenceError(f"a difference begins with {MAGIC!r}, not with {bytes(data[: len(MAGIC)])!r}")
        self._data, self._at = data, len(MAGIC)

    def next(self) -> tuple[int, memoryview]:
        """Kind and payload."""
        start = self._at + HEAD
        head = self._data[self._at : start]
        self._at = start + int.from_bytes(head[1:], "little")
        if self._at > len(self._data) or len(head) < HEAD:
            raise DifferenceError(f"a difference of {len(self._data)} bytes ends within a record")
        return head[0], self._data[start : self._at]

    def end(self) -> None:
        """Raises DifferenceError unless that was all of it."""
        if self._at != len(self._data):
            raise DifferenceError(f"{len(self._data) - self._at} bytes stand behind a difference's last record")
