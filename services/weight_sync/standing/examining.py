"""Whether a version may be given to an engine at all: asked of its bytes as they lie on the disk, before it is tried.

Invariant (test name): one value that is not finite, or one byte that is another, is found, and its tensor named.
"""

import numpy as np
from numpy.typing import NDArray

from penstock.tensors import checksums
from penstock.weights.v1 import weights_pb2 as pb

EXPONENTS: dict[str, tuple[type[np.unsignedinteger], int]] = {
    "float32": (np.uint32, 0x7F800000),
    "bfloat16": (np.uint16, 0x7F80),
    "float16": (np.uint16, 0x7C00),
}
"""Of each type of tensor: the word that a value is, and the bits that are all set in one that is not finite."""
PIECE = 1 << 20
"""Values that are looked at together: they stay in the processor's cache."""


def wrong_with(manifest: pb.Manifest, view: memoryview) -> str:
    """What is wrong with a version whose bytes these are, as a sentence; empty if nothing is."""
    parts = [view[t.offset : t.offset + t.size] for t in manifest.tensors]
    for tensor, part, found in zip(manifest.tensors, parts, checksums(parts), strict=True):
        if found != tensor.checksum:
            return f"corrupted: the checksum of {tensor.name}'s {tensor.size} bytes differs"
        if bad := _not_finite(tensor.dtype, part):
            return f"not finite: {tensor.name} has {bad} values that are NaN or infinite"
    return ""


def _not_finite(dtype: str, part: memoryview) -> int:
    word, exponent = EXPONENTS[dtype]
    values: NDArray[np.unsignedinteger] = np.frombuffer(part, word)
    pieces = (values[start : start + PIECE] for start in range(0, len(values), PIECE))
    return sum(int(np.count_nonzero((piece & word(exponent)) == exponent)) for piece in pieces)
