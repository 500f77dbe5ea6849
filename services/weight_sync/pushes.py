"""The messages of a push, read from the wire by hand: PushTensors and PushDifference, whose messages are alike."""

from google.protobuf.message import DecodeError

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.tensors import unframe
from penstock.weights.v1 import weights_pb2 as pb

# As weights.proto has it; raw messages are not seen by the validator.
MAX_CHUNK_BYTES = 2 << 20


def first_push(message: bytes) -> tuple[PolicyVersion, int, memoryview]:
    """Version, attempt (0 where it says none) and bytes of a stream's first message."""
    if unframe(message, field=pb.PushTensorsRequest.DATA_FIELD_NUMBER) is not None:
        raise rpc.invalid_argument("the first message must name the version", rpc.Violation("version", "is missing"))
    decoded = _decode_push(message)
    if not decoded.HasField("version"):
        raise rpc.invalid_argument("the first message must name the version", rpc.Violation("version", "is missing"))
    return decoded.version, decoded.attempt, _bounded(memoryview(decoded.data))


def next_push(message: bytes, version: PolicyVersion) -> memoryview:
    """Bytes of a later message. A version in it must be the stream's."""
    data = unframe(message, field=pb.PushTensorsRequest.DATA_FIELD_NUMBER)
    if data is not None:
        return _bounded(data)
    decoded = _decode_push(message)
    if decoded.HasField("version") and decoded.version != version:
        text = "a stream is of one version; this is another than its first message's"
        raise rpc.invalid_argument(f"version: {text}", rpc.Violation("version", text))
    return _bounded(memoryview(decoded.data))


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
