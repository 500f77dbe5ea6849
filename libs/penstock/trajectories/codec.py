"""The log's payload: zstd-compressed Trajectory. Decoding is bounded, so a hostile payload cannot fill memory."""

import zstandard
from google.protobuf.message import DecodeError

from penstock.trajectories.checks import TrajectoryError
from penstock.trajectory.v1 import trajectory_pb2 as pb

# A decompressed trajectory larger than this is refused: 256 MiB hold a sample of 28 million tokens.
MAX_BYTES = 256 * 2**20


def encode(trajectory: pb.Trajectory) -> bytes:
    """The payload of a trajectory."""
    return zstandard.ZstdCompressor(level=1).compress(trajectory.SerializeToString())


def decode(payload: bytes) -> pb.Trajectory:
    """The trajectory of a payload. Raises TrajectoryError if it is not one; see checks.check for its contents."""
    try:
        raw = zstandard.ZstdDecompressor().decompress(payload, max_output_size=MAX_BYTES)
        return pb.Trajectory.FromString(raw)
    except (zstandard.ZstdError, DecodeError, MemoryError) as error:
        raise TrajectoryError(f"not a trajectory: {error}") from error
