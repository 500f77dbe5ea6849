"""What a receiver takes for the version that it was told of: any other manifest is found out, whoever gives it."""

import asyncio
import struct
from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.fetching import whole
from penstock.fetching.source import Source
from penstock.tensors import ManifestError, digest, make_manifest
from penstock.weights.v1 import weights_pb2 as pb

TENSORS = [
    ("a.lora_A.weight", "float32", [2, 3], bytes(range(24))),
    ("a.lora_B.weight", "bfloat16", [4, 2], b"0123456789abcdef"),
    ("none", "float16", [0, 5], b""),
]
ADAPTERS = pb.Adapters(scale=0.25, base=bytes(range(32)))
BITS = st.integers(0, 1 << 20)


def flipped(data: bytes, bit: int) -> bytes:
    """One bit of it is another."""
    changed, bit = bytearray(data), bit % (8 * len(data))
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def in_scale(manifest: pb.Manifest, bit: int) -> None:
    (manifest.adapters.scale,) = struct.unpack("d", flipped(struct.pack("d", manifest.adapters.scale), bit))


def in_base(manifest: pb.Manifest, bit: int) -> None:
    manifest.adapters.base = flipped(manifest.adapters.base, bit)


def in_name(manifest: pb.Manifest, bit: int) -> None:
    tensor = manifest.tensors[bit % len(manifest.tensors)]
    at = bit % len(tensor.name)
    tensor.name = f"{tensor.name[:at]}{chr(ord(tensor.name[at]) ^ 1)}{tensor.name[at + 1 :]}"


def in_shape(manifest: pb.Manifest, bit: int) -> None:
    tensor = manifest.tensors[bit % len(manifest.tensors)]
    tensor.shape[bit % len(tensor.shape)] ^= 1 << bit % 63


def in_dtype(manifest: pb.Manifest, bit: int) -> None:
    tensor = manifest.tensors[bit % len(manifest.tensors)]
    tensor.dtype = {"float32": "bfloat16", "bfloat16": "float16", "float16": "bfloat16"}[tensor.dtype]


def in_checksum(manifest: pb.Manifest, bit: int) -> None:
    tensor = manifest.tensors[bit % len(manifest.tensors)]
    tensor.checksum = flipped(tensor.checksum, bit)


def in_order(manifest: pb.Manifest, bit: int) -> None:
    """The bytes of each stay where they are, under another's name."""
    first, second = manifest.tensors[0], manifest.tensors[1]
    first.name, second.name = second.name, first.name


def without_adapters(manifest: pb.Manifest, bit: int) -> None:
    manifest.ClearField("adapters")


def with_adapters(manifest: pb.Manifest, bit: int) -> None:
    manifest.adapters.CopyFrom(ADAPTERS)


def taken(told: PolicyVersion, given: pb.Manifest) -> pb.Manifest:
    """What a receiver that was told of a version makes of a manifest."""

    async def answer(source: Source, version: PolicyVersion) -> pb.GetManifestResponse:
        return pb.GetManifestResponse(manifest=given)

    async def take() -> pb.Manifest:
        async with rpc.channel("127.0.0.1:1") as channel:
            return (await whole.described(Source(channel, relay="relay-a"), told)).manifest

    with mock.patch.object(whole, "_described", answer):
        return asyncio.run(take())


@pytest.mark.parametrize("whose", ["a liar's", "damaged"])
@pytest.mark.parametrize(
    ("adapters", "change"),
    [
        *((ADAPTERS, change) for change in (in_scale, in_base, without_adapters)),
        *(
            (each, change)
            for each in (ADAPTERS, None)
            for change in (in_name, in_shape, in_dtype, in_checksum, in_order)
        ),
        (None, with_adapters),
    ],
)
@given(bit=BITS)
def test_any_change_of_what_a_version_is_is_found_by_whoever_was_told_of_it(
    adapters: pb.Adapters | None, change: Callable[[pb.Manifest, int], None], whose: str, bit: int
) -> None:
    """A liar makes the digest that its manifest has; damage leaves the one that was."""
    made = make_manifest(1, 7, TENSORS, adapters=adapters)
    assert taken(made.version, made) == made
    given = pb.Manifest.FromString(made.SerializeToString())
    change(given, bit)
    if whose == "a liar's":
        given.version.digest = digest(given.tensors, given.adapters if given.HasField("adapters") else None)
    with pytest.raises(ManifestError):
        taken(made.version, given)
