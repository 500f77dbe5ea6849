"""Token arrays on the wire: little-endian bytes with the count beside them (packed varints cost several times more)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


def int32s(values: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
    """Token ids [n] as 4n bytes."""
    return np.asarray(values, dtype="<i4").tobytes()


def from_int32s(data: bytes) -> Int32:
    """4n bytes as token ids [n] (read-only view). Raises ValueError if the length is not a multiple of 4."""
    return np.frombuffer(data, dtype="<i4")


def float32s(values: Sequence[float] | npt.NDArray[np.floating]) -> bytes:
    """Log-probabilities [n] as 4n bytes."""
    return np.asarray(values, dtype="<f4").tobytes()


def from_float32s(data: bytes) -> Float32:
    """4n bytes as float32 [n] (read-only view). Raises ValueError if the length is not a multiple of 4."""
    return np.frombuffer(data, dtype="<f4")
