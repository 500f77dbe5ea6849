"""What changed between two versions of the same tensors, without loss. No torch: buffers in, buffers out.

    difference = "PSD1", then for each block of each tensor, in order, a record:
                 kind (1 byte), length of the payload (4 bytes, little endian), payload

A block is at most BLOCK_BYTES of a tensor, so neither side holds more than a few of them beside the versions. Nothing
in a difference says what it is between: the manifests of the two versions do, and the checksums of the later one prove
what was made of it.
"""

from penstock.differences.applying import beside, in_place, make
from penstock.differences.encoding import ENOUGH, encoded, joined, records_of
from penstock.differences.layout import BLOCK_BYTES, Block, Layout, blocks, layout_of, tensors_in
from penstock.differences.records import DifferenceError

__all__ = [
    "BLOCK_BYTES",
    "ENOUGH",
    "Block",
    "DifferenceError",
    "Layout",
    "beside",
    "blocks",
    "encoded",
    "in_place",
    "joined",
    "layout_of",
    "make",
    "records_of",
    "tensors_in",
]
