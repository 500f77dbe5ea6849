"""The messages of a push, read from the wire by hand: PushTensors and PushDifference, whose messages are alike."""

import dataclasses

from google.protobuf.message import DecodeError

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.tensors import unframe
from penstock.weights.v1 import weights_pb2 as pb

# As weights.proto has it; raw messages are not seen by the validator.
MAX_CHUNK_BYTES = 2 << 20


@dataclasses.dataclass(frozen=True)
class Pushed:
    """A stream's first message. attempt: 0 where it says none. offset: where its bytes begin, of a stream of parts."""

    version: PolicyVersion
    attempt: int
    offset: int | None
    data: memoryview


def first_push(message: bytes) -> Pushed:
    """What a stream begins with."""
    if unframe(message, field=pb.PushTensorsRequest.DATA_FIELD_NUMBER) is not None:
        raise rpc.invalid_argument("the first message must name the version", rpc.Violation("version", "is missing"))
    decoded = _decode_push(message)
    if not decoded.HasField("version"):
        raise rpc.invalid_argument("the first message must name the version", rpc.Violation("version", "is missing"))
    return Pushed(decoded.version, decoded.attempt, _offset(decoded), _bounded(memoryview(decoded.data)))


def next_push(message: bytes, version: PolicyVersion) -> tuple[int | None, memoryview]:
    """Bytes of a later message, and where they begin if it says so. A version in it must be the stream's."""
    data = unframe(message, field=pb.PushTensorsRequest.DATA_FIELD_NUMBER)
    if data is not None:
        return None, _bounded(data)
    decoded = _decode_push(message)
    if decoded.HasField("version") and decoded.version != version:
        text = "a stream is of one version; this is another than its first message's"
        raise rpc.invalid_argument(f"version: {text}", rpc.Violation("version", text))
    return _offset(decoded), _bounded(memoryview(decoded.data))


def _offset(decoded: pb.PushTensorsRequest) -> int | None:
    return decoded.offset if decoded.HasField("offset") else None


def _decode_push(message: bytes) -> pb.PushTensorsRequest:
    try:
        return pb.PushTensorsRequest.FromString(message)
    except DecodeError as error:
        raise rpc.invalid_argument("a message of the stream is not a PushTensorsRequest") from error


def _bounded(data: memoryview) -> memoryview:
    if len(data) > MAX_CHUNK_BYTES:
        text = f"{len(data)} bytes; a message takes {MAX_CHUNK_BYTES} at most"
        raise rpc.invalid_argument(f"data: {text}", rpc.Violation("data", text))
    return data
