"""A difference makes exactly the later version of the earlier one, through any chain, or says that it cannot."""

import contextlib
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.differences import (
    DifferenceError,
    Layout,
    beside,
    blocks,
    encoded,
    in_place,
    layout,
    layout_of,
    make,
    tensors_in,
)
from penstock.differences import records as codec
from penstock.differences.encoding import HEAD, MAGIC
from penstock.tensors import checksum, make_manifest
from penstock.tensors.manifest import ITEM_BYTES

Version = list[bytes]
ANY = 1e3
"""Of a tiny version a difference may have any share: each record has a head."""
SHAPES = st.lists(st.integers(0, 40), max_size=3).map(tuple)
LAYOUTS = st.lists(st.tuples(st.sampled_from(sorted(ITEM_BYTES)), SHAPES), min_size=1, max_size=4).map(
    lambda parts: tuple((f"t{i}", dtype, shape) for i, (dtype, shape) in enumerate(parts))
)
SHARES = st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0])


def first(of: Layout, seed: int) -> Version:
    chance = np.random.default_rng(seed)
    return [chance.bytes(int(np.prod(shape)) * ITEM_BYTES[dtype]) for _, dtype, shape in of]


def stepped(of: Layout, before: Version, seed: int, share: float) -> Version:
    """A version some of whose elements are others."""
    chance, made = np.random.default_rng(seed), list[bytes]()
    for (_, dtype, _), data in zip(of, before, strict=True):
        words = np.frombuffer(data, codec.WORDS[ITEM_BYTES[dtype]]).copy()
        chosen = chance.random(words.size) < share
        words[chosen] = words[chosen] ^ int(chance.integers(1, 60000))
        made.append(words.tobytes())
    return made


def views(version: Version) -> list[memoryview]:
    return [memoryview(data) for data in version]


def made_of(of: Layout, old: Version, *differences: bytes) -> bytes:
    """What differences make, beside the old version and in its place."""
    into, place = ([memoryview(bytearray(data)) for data in version] for version in ([bytes(len(d)) for d in old], old))
    chain, ended = [memoryview(d) for d in differences], Counter[int]()
    sums = make(of, chain, beside(views(old), into), lambda block, made: ended.update({block.tensor: len(made)}))
    assert sums == make(of, chain, in_place(place)) == [checksum(t) for t in into] and into == place
    assert [ended[i] for i in range(len(old))] == [len(t) for t in into]
    return b"".join(into)


@given(LAYOUTS, st.lists(SHARES, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_any_chain_of_differences_makes_the_last_version_of_the_first(
    of: Layout, shares: list[float], seed: int
) -> None:
    versions = [first(of, seed)]
    for i, share in enumerate(shares):
        versions.append(stepped(of, versions[-1], seed + i + 1, share))
    chain = []
    for old, new in zip(versions, versions[1:], strict=False):
        difference = encoded(of, old, new, most=ANY)
        assert difference is not None
        assert made_of(of, old, difference) == b"".join(new)
        chain.append(difference)
    assert made_of(of, versions[0], *chain) == b"".join(versions[-1])


@pytest.mark.parametrize("dtype", sorted(ITEM_BYTES))
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.3, 1.0])
def test_a_tensor_of_many_blocks_is_no_different(dtype: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "BLOCK_BYTES", 4096)
    of: Layout = (("a", dtype, (7, 3001)), ("none", dtype, (0, 5)), ("scalar", dtype, ()))
    old = first(of, 1)
    new = stepped(of, old, 2, share)
    difference = encoded(of, old, new, most=ANY)
    assert difference is not None and made_of(of, old, difference) == b"".join(new)
    assert len(list(blocks(of))) > 10


def test_a_small_step_costs_a_small_share_of_the_bytes() -> None:
    """One bfloat16 weight in a hundred moves to its neighbour, as in real steps (design, versions.md)."""
    of: Layout = (("a", "bfloat16", (1 << 20,)),)
    old, chance = first(of, 3), np.random.default_rng(4)
    words = np.frombuffer(old[0], np.uint16).copy()
    words[chance.random(words.size) < 0.0112] += 1
    difference = encoded(of, old, [words.tobytes()], most=0.4)
    assert difference is not None and len(difference) < 0.012 * len(old[0])
    assert made_of(of, old, difference) == words.tobytes()


def test_a_difference_of_more_than_the_share_is_none() -> None:
    of: Layout = (("a", "float32", (1 << 16,)),)
    old = first(of, 5)
    assert encoded(of, old, first(of, 6), most=0.4) is None
    assert encoded(of, old, old, most=0.4) is not None


def test_versions_whose_only_change_is_in_the_first_blocks_are_still_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "BLOCK_BYTES", 1024)
    of: Layout = (("a", "float32", (64,)), ("b", "float32", (1 << 16,)))
    old = first(of, 7)
    new = [first(of, 8)[0], old[1]]
    difference = encoded(of, old, new, most=0.4)
    assert difference is not None and made_of(of, old, difference) == b"".join(new)


@settings(max_examples=300)
@given(st.integers(0, 2**32 - 1), SHARES, st.integers(0, 4))
def test_damaged_bytes_make_a_version_of_the_right_size_or_an_error(seed: int, share: float, how: int) -> None:
    of: Layout = (("a", "bfloat16", (300,)), ("b", "float32", (5, 5)))
    old = first(of, seed)
    made = encoded(of, old, stepped(of, old, seed + 1, share), most=ANY)
    assert made is not None
    chance, damaged = random.Random(seed), bytearray(made)
    place = chance.randrange(len(damaged))
    match how:
        case 0:
            damaged[place] ^= 1 << chance.randrange(8)
        case 1:
            del damaged[place:]
        case 2:
            damaged += chance.randbytes(chance.randrange(1, 9))
        case 3:
            damaged[place:place] = chance.randbytes(3)
        case _:
            damaged = bytearray(chance.randbytes(len(damaged)))
    try:
        whole = made_of(of, old, bytes(damaged))
    except DifferenceError:
        return
    assert len(whole) == sum(map(len, old))


@pytest.mark.parametrize("kind", [*range(6), 255])
@given(st.binary(max_size=60))
def test_whatever_bytes_are_given_for_a_payload_they_make_a_block_or_an_error(kind: int, payload: bytes) -> None:
    for given_bytes in (payload, codec._packed(payload)):
        around = np.zeros(96, np.uint16)
        with contextlib.suppress(DifferenceError):
            codec.apply(kind, memoryview(given_bytes), around[32:64])
        assert not around[:32].any() and not around[64:].any(), "nothing is written beside the block"


def test_a_frame_that_declares_more_than_a_block_can_need_is_refused_before_it_is_unpacked() -> None:
    bomb = codec._packed(bytes(1 << 26))
    for kind in (codec.Kind.SPARSE, codec.Kind.XOR):
        with pytest.raises(DifferenceError, match="unpacks to 67108864 bytes"):
            codec.apply(kind, memoryview(bomb), np.zeros(1024, np.uint32))


def test_another_layout_is_noticed_where_its_blocks_are_others() -> None:
    of: Layout = (("a", "float32", (10,)),)
    old = first(of, 1)
    difference = encoded(of, old, first(of, 2), most=ANY)
    assert difference is not None
    longer: Layout = (("a", "float32", (11,)),)
    with pytest.raises(DifferenceError):
        made_of(longer, first(longer, 1), difference)
    with pytest.raises(DifferenceError, match="bytes stand behind"):
        made_of((), [], difference)
    with pytest.raises(DifferenceError, match="begins with"):
        made_of(of, old, b"")
    with pytest.raises(DifferenceError, match="ends within a record"):
        made_of(of, old, MAGIC + bytes(HEAD - 1))


def test_the_layout_is_the_manifests() -> None:
    data = [bytes(24), b"", b"0123456789"]
    made = make_manifest(
        1, 7, [("a", "float32", [2, 3], data[0]), ("e", "float32", [0], data[1]), ("b", "bfloat16", [5], data[2])]
    )
    assert layout_of(made) == (("a", "float32", (2, 3)), ("e", "float32", (0,)), ("b", "bfloat16", (5,)))
    assert [bytes(t) for t in tensors_in(made, memoryview(b"".join(data)))] == data
