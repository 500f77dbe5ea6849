"""The log's payload: zstd-compressed Trajectory. Decoding is bounded, so a hostile payload cannot fill memory.

A frame may declare its size, and a decompressor that believes it takes that much at once, whatever limit it was given:
98 kB became 3 GB. So a declared size is compared with the limit first, and a frame that declares none is measured piece
by piece before it is unpacked.
"""

import threading

import zstandard
from google.protobuf.message import DecodeError

from penstock.trajectories.checks import TrajectoryError
from penstock.trajectory.v1 import trajectory_pb2 as pb

# A decompressed trajectory larger than this is refused: 256 MiB hold a sample of 28 million tokens.
MAX_BYTES = 256 * 2**20
_WINDOW_BYTES = 128 * 2**20  # what a decompressor keeps beside: the most that zstd's own levels ask for
_PIECE_BYTES = 2**20
_ROOM_BYTES = 8 * 2**20  # what ours take to unpack, many times over


def encode(trajectory: pb.Trajectory) -> bytes:
    """The payload of a trajectory."""
    return _tools.compressor.compress(trajectory.SerializeToString())


def without_excess(trajectory: pb.Trajectory, limit: int = MAX_BYTES) -> bool:
    """Takes a sample's routes away where it is larger than the limit with them, so that the sample is not lost; whether
    it did."""
    parts: list[pb.Trajectory | pb.Branch] = [trajectory, *trajectory.branches]
    if trajectory.ByteSize() <= limit or not any(each.HasField("routes") for each in parts):
        return False
    for each in parts:
        each.ClearField("routes")
    return True


def decode(payload: bytes, limit: int = MAX_BYTES) -> pb.Trajectory:
    """The trajectory of a payload. Raises TrajectoryError if it is not one, or unpacks to more than `limit` bytes; see
    checks.check for its contents."""
    try:
        return pb.Trajectory.FromString(_unpacked(payload, limit))
    except (zstandard.ZstdError, DecodeError, MemoryError) as error:
        raise TrajectoryError(f"not a trajectory: {error}") from error


def _unpacked(payload: bytes, limit: int) -> bytes:
    declared = zstandard.frame_content_size(payload)
    size = declared if declared >= 0 else _measured(payload, limit)
    if size > limit:
        raise TrajectoryError(f"not a trajectory: it unpacks to more than {limit} bytes")
    unpacking = _tools.decompressor.decompressobj()
    raw: bytes = unpacking.decompress(payload)
    if not unpacking.eof or len(raw) != size:
        raise TrajectoryError(f"not a trajectory: {len(raw)} bytes of a frame that is cut off")
    return raw


def _measured(payload: bytes, limit: int) -> int:
    """The bytes that a frame unpacks to; counting ends beyond the limit."""
    size = 0
    try:
        with _tools.decompressor.stream_reader(payload) as reader:
            while size <= limit and (piece := reader.read(_PIECE_BYTES)):
                size += len(piece)
    finally:
        _tools.let_go()
    return size


class _Tools(threading.local):
    """Of one thread, which makes them once: to make them costs as much as a short sample's work."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)

    def let_go(self) -> None:
        """Gives back what a frame with a window that none of ours has has taken."""
        if self.decompressor.memory_size() > _ROOM_BYTES:
            self.decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)


_tools = _Tools()
