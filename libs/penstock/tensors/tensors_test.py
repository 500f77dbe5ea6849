"""Bytes arrive as they left, or an error names the tensor."""

import hashlib
import math
import pathlib
import random

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.tensors import (
    Arrived,
    ChecksumError,
    ManifestError,
    NoTensor,
    Output,
    Overlapped,
    Receiver,
    TwiceError,
    check_manifest,
    checksum,
    checksums,
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
BASE = bytes(range(32))


def manifest() -> pb.Manifest:
    return make_manifest(1, 7, TENSORS)


WHOLE = b"".join(t[3] for t in TENSORS)


class Memory(bytearray):
    """What a receiver writes to."""

    def write(self, data: memoryview, offset: int) -> None:
        assert offset == len(self), "bytes come in order"
        self.extend(data)


@given(st.integers(1, 40))
def test_it_is_complete_only_when_every_tensor_has_arrived_whatever_the_chunks(chunk: int) -> None:
    memory = Memory()
    receiver = Receiver(manifest(), memory.write)
    for i in range(0, len(WHOLE), chunk):
        assert not receiver.complete
        assert receiver.feed(WHOLE[i : i + chunk]) == len(memory)
    assert receiver.complete and bytes(memory) == WHOLE


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 40))
def test_a_changed_byte_is_an_error_that_names_its_tensor(place: int, chunk: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[place] ^= 1
    receiver = Receiver(manifest(), Memory().write)
    with pytest.raises(ChecksumError, match="'a'" if place < 24 else "'b'"):
        for i in range(0, len(WHOLE), chunk):
            receiver.feed(damaged[i : i + chunk])
    assert not receiver.complete


def test_a_surplus_byte_is_an_error_and_tensors_without_a_byte_are_there_at_once() -> None:
    with pytest.raises(ValueError, match="35 bytes received, the version has 34"):
        Receiver(manifest(), Memory().write).feed(bytes(35))
    assert Receiver(make_manifest(1, 7, [("empty", "float32", [0], b"")]), Memory().write).complete


@settings(max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 3), st.integers(1, 20), st.randoms())
def test_several_receivers_make_one_version_in_any_order_and_a_checked_tensor_is_never_written_again(
    sizes: list[int], receivers: int, chunk: int, chance: random.Random
) -> None:
    data = [bytes([i + 1]) * (4 * size) for i, size in enumerate(sizes)]
    made = make_manifest(1, 7, [(f"t{i}", "float32", [len(d) // 4], d) for i, d in enumerate(data)])
    memory = bytearray(made.total_size)

    def write(piece: memoryview, offset: int) -> None:
        memory[offset : offset + len(piece)] = piece

    arrived = Arrived(made)
    streams = [Receiver(made, write, arrived) for _ in range(receivers)]
    waiting = [i for i, d in enumerate(data) if d]
    chance.shuffle(waiting)
    under_way: list[tuple[Receiver, int, list[bytes]]] = []
    while waiting or under_way:
        idle = [s for s in streams if s not in [each[0] for each in under_way]]
        if waiting and idle:
            index = waiting.pop()
            idle[0].seek(made.tensors[index].offset)
            under_way.append(
                (idle[0], index, [data[index][at : at + chunk] for at in range(0, len(data[index]), chunk)])
            )
        place = chance.randrange(len(under_way))
        stream, index, pieces = under_way[place]
        assert not arrived.complete
        stream.feed(pieces.pop(0))
        another = Receiver(made, write, arrived)
        another.seek(made.tensors[index].offset)
        with pytest.raises(TwiceError, match=f"'t{index}' comes twice"):
            another.feed(bytes(4))
        if not pieces:
            del under_way[place]
    assert arrived.complete and bytes(memory) == b"".join(data) and arrived.received == made.total_size


def test_what_came_in_part_may_come_from_elsewhere_once_its_stream_is_over() -> None:
    memory = bytearray(len(WHOLE))

    def write(piece: memoryview, offset: int) -> None:
        memory[offset : offset + len(piece)] = piece

    arrived = Arrived(manifest())
    broken, other = Receiver(manifest(), write, arrived), Receiver(manifest(), write, arrived)
    broken.feed(WHOLE[:20])
    with pytest.raises(TwiceError):
        other.feed(WHOLE)
    broken.close()
    other.feed(WHOLE)
    assert arrived.complete and bytes(memory) == WHOLE


@pytest.mark.parametrize("offset", [1, 23, 25, len(WHOLE), 2**63])
def test_a_stream_begins_with_a_tensor_and_ends_one_before_the_next(offset: int) -> None:
    receiver = Receiver(manifest(), Memory().write)
    with pytest.raises(NoTensor, match=f"no tensor of the version begins at byte {offset}"):
        receiver.seek(offset)
    receiver.feed(WHOLE[:3])
    with pytest.raises(NoTensor, match="'a' has come in part"):
        receiver.seek(24)


async def test_pieces_are_fed_in_order_and_an_error_comes_out(tmp_path: pathlib.Path) -> None:
    receiver = Receiver(manifest(), Output(tmp_path / "v", len(WHOLE)).write)
    async with Overlapped(receiver.feed) as feeding:
        for i in range(0, len(WHOLE), 3):
            await feeding.put(memoryview(WHOLE)[i : i + 3])
    assert receiver.complete and feeding.received == len(WHOLE) and (tmp_path / "v").read_bytes() == WHOLE
    receiver = Receiver(manifest(), Output(tmp_path / "v", len(WHOLE)).write)
    with pytest.raises(ChecksumError):
        async with Overlapped(receiver.feed) as feeding:
            await feeding.put(memoryview(bytes(24)))


def test_many_bytes_are_hashed_like_few() -> None:
    buffers = [bytes([n]) * (3 << 20) for n in range(4)]
    assert checksums(buffers) == [checksum(b) for b in buffers] == [xxhash.xxh3_128_digest(b) for b in buffers]


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


def test_the_digest_of_a_version_without_adapters_is_what_it_was_before_there_were_any() -> None:
    whole = b"".join(
        f"{t.name}|{t.dtype}|{','.join(map(str, t.shape))}|".encode() + t.checksum for t in manifest().tensors
    )
    assert manifest().version.digest == hashlib.sha256(whole).digest()


def test_the_digest_of_adapters_is_over_the_tensors_the_scale_and_the_base() -> None:
    made = make_manifest(1, 7, TENSORS, adapters=pb.Adapters(scale=0.5, base=BASE))
    scale = bytes.fromhex("3fe0000000000000")
    assert made.version.digest == hashlib.sha256(manifest().version.digest + scale + BASE).digest()


@pytest.mark.parametrize("scale", [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_scale_that_is_no_number_above_0_is_refused_in_a_sentence(scale: float) -> None:
    with pytest.raises(ManifestError, match=f"adapters.scale: {scale:g} is no number above 0 that is finite"):
        make_manifest(1, 7, TENSORS, adapters=pb.Adapters(scale=scale, base=BASE))


def test_adapters_of_no_model_and_those_of_an_older_release_are_refused_in_a_sentence() -> None:
    with pytest.raises(ManifestError, match="adapters.base: 31 bytes, and a model's digest has 32"):
        make_manifest(1, 7, TENSORS, adapters=pb.Adapters(scale=1, base=BASE[:31]))
    older = make_manifest(1, 7, TENSORS, adapters=pb.Adapters(scale=1, base=BASE))
    older.version.digest = digest(older.tensors)
    with pytest.raises(
        ManifestError, match="digest: leaves adapters.scale and adapters.base out.*must be of one release"
    ):
        check_manifest(older)


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
