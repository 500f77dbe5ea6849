"""Where the routers of a mixture of experts sent a sequence's tokens: rows of experts, and how a message holds them.

Row t is of the pass that had token t as its input: [layers, top] experts in rising order. A row is known in all layers,
or unknown in all; the last token of a sequence was no input and has no row.

    row    [[3 9] [0 4]]   ->   slot by slot, each expert as its distance from the one before   3, 6 | 0, 4

That is what compresses: zstd makes two thirds of it, and of the experts as they are nothing less (docs/benchmarks.md).

Invariants (test names): what is packed is unpacked again; rows that no router chose are refused with the row; what was
recorded stays where it was recorded, whatever is cut, copied or told twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.trajectory.v1 import trajectory_pb2 as pb

Rows = npt.NDArray[Any]
"""uint8 or uint16 [n, layers, top], as its `RouteShape` says."""


@dataclass(frozen=True)
class RouteShape:
    """What a row has: `top` of `experts` in each of `layers`."""

    layers: int
    top: int
    experts: int

    @staticmethod
    def of(routes: pb.Routes) -> RouteShape:
        return RouteShape(routes.layers, routes.top, routes.experts)

    @property
    def dtype(self) -> npt.DTypeLike:
        return np.dtype("<u1" if self.experts <= 255 else "<u2")

    @property
    def unknown(self) -> int:
        """What an unknown row is full of."""
        return int(np.iinfo(self.dtype).max)

    def unknown_rows(self, count: int) -> Rows:
        return np.full((count, self.layers, self.top), self.unknown, self.dtype)


def packed(shape: RouteShape, rows: Rows, first: int = 0) -> pb.Routes:
    """rows: [n, layers, top] as `unpacked` gives them; `first` is the first one's number."""
    gaps = rows.copy()
    gaps[..., 1:] -= rows[..., :-1]
    slots = gaps.transpose(1, 2, 0).tobytes()
    return pb.Routes(
        first=first, count=len(rows), layers=shape.layers, top=shape.top, experts=shape.experts, gaps=slots
    )


def unpacked(routes: pb.Routes) -> Rows:
    """[count, layers, top]. Raises ValueError for rows that no router chose: which, and what is wrong with it."""
    shape = RouteShape.of(routes)
    if not (shape.layers and shape.top and shape.experts):
        raise ValueError(f"{shape}: a row has layers, and experts in each")
    size = routes.layers * routes.top * routes.count * np.dtype(shape.dtype).itemsize
    if len(routes.gaps) != size:
        raise ValueError(f"gaps has {len(routes.gaps)} bytes, and {routes.count} rows have {size}")
    gaps = np.frombuffer(routes.gaps, shape.dtype).reshape(shape.layers, shape.top, routes.count)
    unknown = gaps[:, 0] == shape.unknown
    _refuse(unknown.any(0) & ~unknown.all(0), routes.first, "is unknown in some layers alone")
    rows = gaps.cumsum(axis=1, dtype=np.uint32)
    known = ~unknown.all(0)
    _refuse(known & (gaps[:, 1:] == 0).any((0, 1)), routes.first, "names an expert twice")
    _refuse(~known & (gaps[:, 1:] != 0).any((0, 1)), routes.first, "is unknown, and names experts")
    beyond = known & (rows[:, -1] >= shape.experts).any(0)
    _refuse(beyond, routes.first, f"names an expert beyond {shape.experts - 1}, the last")
    return np.ascontiguousarray(rows.transpose(2, 0, 1).astype(shape.dtype))


def _refuse(wrong: npt.NDArray[np.bool_], first: int, what: str) -> None:
    if wrong.any():
        raise ValueError(f"row {first + int(wrong.argmax())} {what}")


class RouteRows:
    """The rows of a sequence that grows, in whatever order they come. The first word about a row stands."""

    def __init__(self) -> None:
        self.shape: RouteShape | None = None
        self._rows: Rows = np.zeros((0, 0, 0), np.uint8)
        self._length = 0

    def take(self, routes: pb.Routes, inputs: int) -> None:
        """Rows of a sequence of so many inputs; what is beyond them is left out. Raises ValueError as `unpacked`, and
        for rows of another shape than those before."""
        rows, shape = unpacked(routes), RouteShape.of(routes)
        if self.shape not in (None, shape):
            raise ValueError(f"rows of {shape}, and those before were of {self.shape}")
        if self.shape is None:
            self.shape, self._rows = shape, shape.unknown_rows(0)
        end = min(routes.first + len(rows), inputs)
        if end <= routes.first:
            return
        self._grow(shape, end)
        own = self._rows[routes.first : end]
        lacking = own[:, 0, 0] == shape.unknown
        own[lacking] = rows[: len(own)][lacking]

    def cut(self, inputs: int) -> None:
        """The sequence ends there."""
        self._length = min(self._length, inputs)

    @property
    def lacking(self) -> int:
        """The first row that is not known."""
        if self.shape is None:
            return 0
        unknown = self._rows[: self._length, 0, 0] == self.shape.unknown
        return int(unknown.argmax()) if unknown.any() else self._length

    def copy(self) -> RouteRows:
        other = RouteRows()
        other.shape, other._length, other._rows = self.shape, self._length, self._rows[: self._length].copy()
        return other

    def fill_from(self, other: RouteRows) -> None:
        """Takes what is lacking here from a sequence that this one begins with."""
        routes = other.packed()
        if routes is not None and self.shape in (None, other.shape):
            self.take(routes, other._length)

    def packed(self) -> pb.Routes | None:
        """As a sample has them; None where no row is known."""
        if self.shape is None:
            return None
        rows = self._rows[: self._length]
        return packed(self.shape, rows) if (rows[:, 0, 0] != self.shape.unknown).any() else None

    def _grow(self, shape: RouteShape, length: int) -> None:
        """Room for so many rows; new ones are unknown."""
        if length > len(self._rows):
            larger = shape.unknown_rows(max(length, 2 * len(self._rows)))
            larger[: self._length] = self._rows[: self._length]
            self._rows = larger
        self._rows[self._length : max(self._length, length)] = shape.unknown
        self._length = max(self._length, length)
