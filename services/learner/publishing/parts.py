"""One rank's part of a version: its tensors' bytes, and how they come to weight_sync.

    begun by rank 0 -> Place -> every rank puts its part (`putting.py`) -> committed by rank 0

A weight_sync of an older release takes one stream alone: then rank 0 gets the others' bytes, and puts them all.
"""

import dataclasses
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
import torch
from torch import Tensor

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.differences import Layout
from penstock.tensors import CHUNK_BYTES, Row, checksums, frame
from penstock.weights.v1 import weights_pb2 as pb
from services.learner.publishing.writing import Piece

PUSH_SECONDS = 600.0
_SERVICE = "/penstock.weights.v1.WeightSyncService/"
_Request = type[pb.PushTensorsRequest] | type[pb.PushDifferenceRequest]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a version's bytes go. address: weight_sync's; boot_id, path: its host and file, if it has one; offsets: by
    a tensor's name; alone: whether rank 0 puts all. Plain values, so that one rank can tell another."""

    address: str
    epoch: int
    step: int
    attempt: int
    boot_id: str
    path: str
    size: int
    offsets: Mapping[str, int]
    alone: bool = False

    @property
    def version(self) -> PolicyVersion:
        """The one that is pushed."""
        return PolicyVersion(epoch=self.epoch, step=self.step)


class Part:
    """What a rank has of a version. layout: its tensors' names, types and shapes; buffers: their bytes."""

    def __init__(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        """tensors: (Hugging Face name, CPU tensor)."""
        self.layout: Layout = tuple((name, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors)
        self.buffers = [_bytes_of(tensor) for _, tensor in tensors]

    def pieces(self, place: Place) -> list[Piece]:
        """Its bytes and where they belong, in that order."""
        named = zip(self.layout, self.buffers, strict=True)
        return sorted(((place.offsets[name], data) for (name, _, _), data in named if data), key=lambda piece: piece[0])

    def rows(self) -> list[Row]:
        """What the manifest says of them; reads every byte."""
        sums = checksums(self.buffers)
        return [
            Row(name, dtype, list(shape), len(data), sum_)
            for (name, dtype, shape), data, sum_ in zip(self.layout, self.buffers, sums, strict=True)
        ]


async def stream(
    channel: grpc.aio.Channel, method: str, version: PolicyVersion, attempt: int, pieces: Sequence[Piece]
) -> None:
    """Pushes pieces in the order of their places, those of a difference or of a whole version without saying where they
    begin. Raises rpc.RpcError."""
    differs = method == "PushDifference"
    request: _Request = pb.PushDifferenceRequest if differs else pb.PushTensorsRequest
    response = pb.PushDifferenceResponse if differs else pb.PushTensorsResponse
    push: Any = channel.stream_unary(f"{_SERVICE}{method}", response_deserializer=response.FromString)
    await rpc.call(push(_messages(request, version, attempt, pieces), timeout=PUSH_SECONDS))


async def _messages(
    request: _Request, version: PolicyVersion, attempt: int, pieces: Sequence[Piece]
) -> AsyncIterator[bytes]:
    first, at = request(version=version, attempt=attempt), 0
    gaps = any(offset != end for (offset, _), end in zip(pieces, _ends(pieces), strict=True))
    if isinstance(first, pb.PushTensorsRequest) and gaps:
        first.offset = at = pieces[0][0]
    yield first.SerializeToString()
    for offset, data in pieces:
        if offset != at:
            yield pb.PushTensorsRequest(offset=offset).SerializeToString()
        for start in range(0, len(data), CHUNK_BYTES):
            yield frame(data[start : start + CHUNK_BYTES], request.DATA_FIELD_NUMBER)
        at = offset + len(data)


def _ends(pieces: Sequence[Piece]) -> list[int]:
    """Where each piece would begin if it stood right behind the one before."""
    return [0, *(offset + len(data) for offset, data in pieces[:-1])]


def _bytes_of(t: Tensor) -> memoryview:
    """A tensor's bytes without a copy (it is contiguous and on the CPU)."""
    if not math.prod(t.shape):
        return memoryview(b"")
    return memoryview(t.contiguous().view(-1).view(torch.uint8).numpy())
