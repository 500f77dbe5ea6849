"""Bytes arrive as they left, or an error names the tensor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.tensors import (
    ChecksumError,
    ManifestError,
    Receiver,
    check_manifest,
    digest,
    frame,
    make_manifest,
    unframe,
)
from penstock.weights.v1 import weights_pb2 as pb

TENSORS = [
    ("a", "float32", [2, 3], bytes(range(24))),
    ("empty", "float32", [0], b""),
    ("b", "bfloat16", [5], b"0123456789"),
]


def manifest() -> pb.Manifest:
    return make_manifest(1, 7, TENSORS)


@given(st.integers(1, 40))
def test_every_tensor_is_seen_once_in_order_whatever_the_chunks(chunk: int) -> None:
    m, whole, seen = manifest(), b"".join(t[3] for t in TENSORS), []
    receiver = Receiver(m, memoryview(bytearray(m.total_size)), lambda t, d: seen.append((t.name, bytes(d))))
    for i in range(0, len(whole), chunk):
        receiver.feed(whole[i : i + chunk])
    assert receiver.complete
    assert seen == [(t[0], t[3]) for t in TENSORS]


def test_a_changed_byte_and_a_surplus_byte_are_errors() -> None:
    m = manifest()
    with pytest.raises(ChecksumError, match="'a'"):
        Receiver(m, memoryview(bytearray(m.total_size))).feed(bytes(24))
    with pytest.raises(ValueError, match="35 bytes received, the version has 34"):
        Receiver(m, memoryview(bytearray(m.total_size))).feed(bytes(35))


def test_contradictory_manifests_are_refused() -> None:
    for field, value, word in (("size", 20, "needs 24"), ("offset", 4, "no gaps"), ("name", "b", "named twice")):
        m = manifest()
        setattr(m.tensors[0], field, value)
        with pytest.raises(ManifestError, match=word):
            check_manifest(m)
    m = manifest()
    m.version.digest = b"x" * 32
    with pytest.raises(ManifestError, match="digest"):
        check_manifest(m)


def test_the_digest_depends_on_every_tensor() -> None:
    other = [(n, d, s, b"\1" + b[1:] if n == "b" else b) for n, d, s, b in TENSORS]
    assert digest(manifest().tensors) != digest(make_manifest(1, 7, other).tensors)


@given(st.binary(max_size=300), st.sampled_from([1, 2]))
def test_hand_framing_is_what_protobuf_writes(data: bytes, field: int) -> None:
    message = pb.FetchTensorsResponse(data=data) if field == 1 else pb.PushTensorsRequest(data=data)
    wire = message.SerializeToString()
    if data:
        assert frame(data, field) == wire
    assert bytes(unframe(wire, field) or b"") == data
    assert type(message).FromString(frame(data, field)) == message


def test_unframe_leaves_other_messages_alone() -> None:
    version = pb.PushTensorsRequest(data=b"x")
    version.version.step = 3
    assert unframe(version.SerializeToString(), 2) is None
    assert unframe(frame(b"abc") + b"x") is None
