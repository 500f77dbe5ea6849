"""Versions pushed as differences: they make their version of their parent, or nothing; and lead receivers to it."""

import pathlib
from typing import Any

import numpy as np
import pytest

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.differences import DifferenceError, encoded, in_place, layout_of, make, tensors_in
from penstock.tensors import ChecksumError, make_manifest
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.chains import chain
from services.weight_sync.disk.files import Stored
from services.weight_sync.errors import NoDifference, NoParent, NoRoom, NotKept, NotStaged
from services.weight_sync.pushing import staging
from services.weight_sync.store import VersionStore

SIZE = 4000
SHAPES = (("a", "bfloat16", [500], 1000), ("b", "float32", [750], 3000))


def whole(step: int) -> bytes:
    """Each step changes other ten elements of the one before."""
    words = np.arange(SIZE // 2, dtype=np.uint16)
    for each in range(1, step + 1):
        words[np.random.default_rng(each).integers(0, words.size, 10)] += 1
    return words.tobytes()


def manifest(step: int, epoch: int = 1, parent: pb.Manifest | None = None, names: str = "ab") -> pb.Manifest:
    data, tensors, at = whole(step), list[tuple[str, str, list[int], bytes]](), 0
    for name, (_, dtype, shape, size) in zip(names, SHAPES, strict=True):
        tensors.append((name, dtype, shape, data[at : at + size]))
        at += size
    return make_manifest(epoch, step, tensors, parent.version if parent is not None else None)


def difference(old: pb.Manifest, new: pb.Manifest) -> bytes:
    before, after = (tensors_in(m, memoryview(whole(m.version.step))) for m in (old, new))
    made = encoded(layout_of(old), before, after, most=0.9)
    assert made is not None
    return made


def push(store: VersionStore, made: pb.Manifest) -> pb.Manifest:
    store.begin(made)
    store.staging.feed(made.version, memoryview(whole(made.version.step)))
    store.commit(made.version)
    return made


def push_difference(store: VersionStore, parent: pb.Manifest, step: int, data: bytes | None = None) -> pb.Manifest:
    made = manifest(step, parent=parent)
    data = difference(parent, made) if data is None else data
    store.begin(made)
    for start in range(0, len(data), 100):
        store.staging.feed_difference(made.version, memoryview(data)[start : start + 100])
    store.staging.apply_difference(made.version)
    store.commit(made.version)
    return made


def bytes_of(store: VersionStore, version: PolicyVersion) -> bytes:
    stored = store.get(version)
    assert stored is not None
    return bytes(stored.view)


def test_a_difference_makes_its_version_of_its_parent_over_restarts_too(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=4)
    versions = [push(store, manifest(1))]
    for step in (2, 3, 4):
        versions.append(push_difference(store, versions[-1], step))
        store = VersionStore(tmp_path, keep=4)
    for made in versions:
        assert bytes_of(store, made.version) == whole(made.version.step)
    assert [bool(info.difference) for info in store.infos()] == [True, True, True, False]


@pytest.mark.parametrize("held", [1, 2, 3, 4])
def test_a_chain_leads_from_exactly_what_the_receiver_has(tmp_path: pathlib.Path, held: int) -> None:
    store = VersionStore(tmp_path, keep=3)
    versions = {1: push(store, manifest(1))}
    for step in (2, 3, 4):
        versions[step] = push_difference(store, versions[step - 1], step)
    chain = store.differences(versions[4].version, versions[held].version)  # version 1 itself is retired
    assert len(chain) == 4 - held
    made = bytearray(whole(held))
    tensors = tensors_in(versions[held], memoryview(made))
    make(layout_of(versions[4]), chain, in_place(tensors))
    assert made == whole(4)


def test_without_a_way_that_is_shorter_than_the_whole_there_is_none(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=9)
    first = push(store, manifest(1))
    second = push_difference(store, first, 2)
    third = push(store, manifest(3, parent=second))
    fourth = push_difference(store, third, 4)
    with pytest.raises(NoDifference, match="no differences lead from step 2 to step 4"):
        store.differences(fourth.version, second.version)
    with pytest.raises(NoDifference):
        store.differences(second.version, fourth.version)  # nobody is led back
    stranger = PolicyVersion(epoch=1, step=3, digest=bytes(32))
    with pytest.raises(NoDifference):
        store.differences(fourth.version, stranger)
    with pytest.raises(NotKept):
        store.differences(PolicyVersion(epoch=1, step=9), fourth.version)


def test_a_chain_that_is_not_shorter_than_the_whole_is_none() -> None:
    kept, last = dict[int, Stored](), None
    for step in (1, 2, 3):
        made = manifest(step, parent=last)
        kept[step] = Stored(made, pathlib.Path("x"), memoryview(b""), memoryview(bytes(SIZE // 2)))
        last = made

    def get(version: PolicyVersion) -> Stored | None:
        return kept.get(version.step)

    assert len(chain(get, kept[3].manifest.version, kept[2].manifest.version)) == 1
    with pytest.raises(NoDifference, match="not shorter than step 3"):
        chain(get, kept[3].manifest.version, kept[1].manifest.version)


def test_what_differs_from_nothing_that_is_kept_is_refused_at_its_first_byte(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=9)
    first = push(store, manifest(1))
    other = manifest(1, epoch=2)
    lying = manifest(1)
    lying.version.digest = bytes(32)
    cases = {
        "names no parent": manifest(2),
        "is not kept": manifest(2, parent=other),
        "with that digest": manifest(2, parent=lying),
        "other tensors": manifest(2, parent=first, names="ax"),
    }
    for said, made in cases.items():
        store.begin(made)
        with pytest.raises(NoParent, match=said):
            store.staging.feed_difference(made.version, memoryview(b"PSD1"))
    assert store.served() == first.version


def test_a_parent_that_is_retired_meanwhile_is_said_and_the_whole_can_still_be_pushed(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=9)
    first = push(store, manifest(1))
    made = manifest(2, parent=first)
    store.begin(made)
    store.staging.feed_difference(made.version, memoryview(difference(first, made)))
    store._stored.clear()
    with pytest.raises(NoParent):
        store.staging.apply_difference(made.version)
    push(store, made)
    assert bytes_of(store, made.version) == whole(2)


def test_bytes_that_make_another_version_leave_nothing_behind(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=9)
    first = push(store, manifest(1))
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(ChecksumError):
        push_difference(store, first, 3, difference(first, manifest(2)))
    with pytest.raises(DifferenceError):
        push_difference(store, first, 3, b"garbage")
    with pytest.raises(DifferenceError, match="more than the 4000 bytes"):
        push_difference(store, first, 3, bytes(SIZE + 1))
    store.staging.abort(PolicyVersion(epoch=1, step=3))
    with pytest.raises(NotStaged):
        store.staging.apply_difference(PolicyVersion(epoch=1, step=3))
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert store.served() == first.version
    assert bytes_of(store, push_difference(store, first, 3).version) == whole(3)


def test_a_difference_that_makes_nothing_leaves_what_was_begun_again_meanwhile(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = VersionStore(tmp_path, keep=9)
    first = push(store, manifest(1))
    made = manifest(2, parent=first)
    store.begin(made)
    store.staging.feed_difference(made.version, memoryview(b"garbage"))

    def making(*what: Any) -> list[bytes]:
        store.begin(made)  # the learner asked again, and pushes now
        return make(*what)

    monkeypatch.setattr(staging, "make", making)
    with pytest.raises(DifferenceError):
        store.staging.apply_difference(made.version)
    store.staging.feed(made.version, memoryview(whole(2)))
    store.commit(made.version)
    assert bytes_of(store, made.version) == whole(2)


def test_a_difference_counts_towards_the_quota_of_what_is_pushed(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=9, quota=SIZE + 50)
    first = push(store, manifest(1))
    made = manifest(2, parent=first)
    store.begin(made)
    store.staging.feed_difference(made.version, memoryview(bytes(50)))
    with pytest.raises(NoRoom, match="--staged-gib"):
        store.staging.feed_difference(made.version, memoryview(bytes(1)))
