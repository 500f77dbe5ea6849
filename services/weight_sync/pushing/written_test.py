"""Versions that a learner on this host writes into the store's files: taken as they are and stay, or not at all."""

import contextlib
import mmap
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.differences import DifferenceError, encoded, layout_of, tensors_in
from penstock.tensors import ChecksumError, check_file, make_manifest
from penstock.tensors.manifest import ITEM_BYTES
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.disk import leases
from services.weight_sync.errors import NoRoom, NotStaged, NotWritten, Refused
from services.weight_sync.pushing import written
from services.weight_sync.store import VersionStore

SIZE = 3000
TENSORS, DIFFERENCE = pb.WRITTEN_TENSORS, pb.WRITTEN_DIFFERENCE


def whole(step: int) -> bytes:
    """Each step changes a few elements of the one before."""
    words = np.arange(SIZE // 2, dtype=np.uint16)
    words[:step] += 1
    return words.tobytes()


def manifest(step: int, parent: pb.Manifest | None = None) -> pb.Manifest:
    tensors = [("a", "bfloat16", [500], whole(step)[:1000]), ("b", "bfloat16", [1000], whole(step)[1000:])]
    return make_manifest(1, step, tensors, parent.version if parent is not None else None)


def begun(store: VersionStore, made: pb.Manifest) -> tuple[pathlib.Path, pathlib.Path | None]:
    store.begin(made)
    places = store.staging.places(made.version)
    assert places is not None
    return places


def push(store: VersionStore, step: int) -> pb.Manifest:
    made = manifest(step)
    place, _ = begun(store, made)
    put(place, whole(step))
    store.staging.take_written(made.version, TENSORS)
    store.commit(made.version)
    return made


def put(place: pathlib.Path, data: bytes) -> None:
    with place.open("r+b") as file:
        file.write(data)


def difference(parent: pb.Manifest, made: pb.Manifest) -> bytes:
    old, new = (tensors_in(m, memoryview(whole(m.version.step))) for m in (parent, made))
    found = encoded(layout_of(made), old, new, most=0.9)
    assert found is not None
    return found


def bytes_of(store: VersionStore, version: PolicyVersion) -> bytes:
    stored = store.get(version)
    assert stored is not None
    return bytes(stored.view)


SHAPES = st.lists(
    st.tuples(st.sampled_from(sorted(ITEM_BYTES)), st.sampled_from([0, 1, 2, 4095, 1 << 16])), min_size=1, max_size=5
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SHAPES, st.integers(0, 2**32 - 1))
def test_what_is_written_is_the_version_whatever_its_sizes_and_over_a_restart(
    tmp_path: pathlib.Path, shapes: list[tuple[str, int]], seed: int
) -> None:
    folder, chance = pathlib.Path(tempfile.mkdtemp(dir=tmp_path)), np.random.default_rng(seed)
    data = [chance.bytes(count * ITEM_BYTES[dtype]) for dtype, count in shapes]
    listed = [(f"t{i}", dtype, [count], data[i]) for i, (dtype, count) in enumerate(shapes)]
    made, store = make_manifest(1, 1, listed), VersionStore(folder, keep=2)
    place, beside = begun(store, made)
    assert beside is None, "it has no parent"
    put(place, b"".join(data))
    store.staging.take_written(made.version, TENSORS)
    store.commit(made.version)
    for each in (store, VersionStore(folder, keep=2)):
        assert bytes_of(each, made.version) == b"".join(data)
    assert [i.path for i in store.infos()] == [pb.PATH_MAPPED]
    assert sorted(p.suffix for p in folder.iterdir()) == [".bin", ".manifest"]


def test_a_written_difference_makes_its_version_and_leads_receivers_to_it(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=4)
    first = push(store, 1)
    second = manifest(2, first)
    _, place = begun(store, second)
    assert place is not None
    put(place, difference(first, second))
    store.staging.take_written(second.version, DIFFERENCE)
    store.staging.take_written(second.version, DIFFERENCE)  # its answer was lost
    store.commit(second.version)
    store.staging.take_written(second.version, DIFFERENCE)
    assert store.commit(second.version) == second.version
    assert bytes_of(store, second.version) == whole(2)
    assert store.differences(second.version, first.version) == [difference(first, second)]
    assert [(i.path, bool(i.difference)) for i in store.infos()] == [(pb.PATH_MAPPED, True), (pb.PATH_MAPPED, False)]


def link(place: pathlib.Path) -> None:
    elsewhere = place.with_name("elsewhere")
    elsewhere.write_bytes(whole(1))
    place.unlink()
    place.symlink_to(elsewhere)


def another(place: pathlib.Path) -> None:
    made = place.with_name("another")
    made.write_bytes(whole(1))
    made.rename(place)


def pipe(place: pathlib.Path) -> None:
    place.unlink()
    os.mkfifo(place)


def second_name(place: pathlib.Path) -> None:
    put(place, whole(1))
    place.with_name("second").hardlink_to(place)


WRONG: dict[str, tuple[Callable[[pathlib.Path], object], type[Exception], str]] = {
    "too short": (lambda place: os.truncate(place, SIZE - 1), NotWritten, "has 2999 bytes, and its version 3000"),
    "too long": (lambda place: os.truncate(place, SIZE + 1), NotWritten, "has 3001 bytes"),
    "gone": (lambda place: place.unlink(), NotWritten, "is not the file that was made for it"),
    "a link": (link, NotWritten, "is not the file that was made for it"),
    "another file": (another, NotWritten, "but another"),
    "a pipe": (pipe, NotWritten, "but another"),
    "a second name": (second_name, NotWritten, "has another name"),
    "other bytes": (lambda place: put(place, whole(1)[:-1] + b"x"), ChecksumError, "'b'"),
    "nothing": (lambda place: None, ChecksumError, "'a'"),
}


@pytest.mark.parametrize("how", sorted(WRONG))
def test_what_is_not_the_very_file_with_the_versions_bytes_is_refused_and_leaves_nothing(
    tmp_path: pathlib.Path, how: str
) -> None:
    store = VersionStore(tmp_path, keep=4)
    kept = push(store, 0).version
    write, error, said = WRONG[how]
    place, _ = begun(store, manifest(1))
    write(place)
    with pytest.raises(error, match=said):
        store.staging.take_written(manifest(1).version, TENSORS)
    with pytest.raises(NotStaged):
        store.commit(manifest(1).version)
    assert store.newest == store.served() == kept and not list(tmp_path.glob("*.staging"))
    assert push(store, 1).version == store.served()


@contextlib.contextmanager
def mapping(place: pathlib.Path) -> Iterator[None]:
    with place.open("r+b") as file:
        kept = mmap.mmap(file.fileno(), 0)
    yield
    kept.close()


@pytest.mark.parametrize("writer", [lambda place: place.open("r+b"), mapping])
def test_a_file_that_is_still_open_for_writing_is_refused(
    tmp_path: pathlib.Path, writer: Callable[[pathlib.Path], contextlib.AbstractContextManager[object]]
) -> None:
    store = VersionStore(tmp_path, keep=4)
    place, _ = begun(store, manifest(1))
    put(place, whole(1))
    with writer(place), pytest.raises(NotWritten, match="still open for writing"):
        store.staging.take_written(manifest(1).version, TENSORS)
    assert store.newest is None and push(store, 1).version == store.served()


def opens(place: pathlib.Path) -> None:
    with contextlib.suppress(BlockingIOError):
        os.close(os.open(place, os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.parametrize("how", [opens, another, link, lambda place: place.unlink()])
def test_a_file_that_may_have_changed_after_the_check_is_refused(
    tmp_path: pathlib.Path, how: Callable[[pathlib.Path], object]
) -> None:
    store = VersionStore(tmp_path, keep=4)
    place, _ = begun(store, manifest(1))
    put(place, whole(1))
    store.staging.take_written(manifest(1).version, TENSORS)
    how(place)
    with pytest.raises(NotWritten):
        store.commit(manifest(1).version)
    assert store.newest is None and not list(tmp_path.glob("*.staging"))
    assert push(store, 1).version == store.served()


def test_a_check_that_fails_leaves_what_was_begun_again_meanwhile(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, made = VersionStore(tmp_path, keep=4), manifest(1)
    begun(store, made)

    def checking(*what: Any) -> None:
        store.begin(made)  # the learner asked again, and pushes now
        store.staging.feed(made.version, memoryview(whole(1))[:500])
        check_file(*what)

    monkeypatch.setattr(written, "check_file", checking)
    with pytest.raises(ChecksumError):
        store.staging.take_written(made.version, TENSORS)
    store.staging.feed(made.version, memoryview(whole(1))[500:])
    store.commit(made.version)
    assert bytes_of(store, made.version) == whole(1)


def test_what_was_taken_is_not_changed_by_a_push(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=4)
    place, _ = begun(store, manifest(1))
    put(place, whole(1))
    store.staging.take_written(manifest(1).version, TENSORS)
    for push_on in (store.staging.feed, store.staging.feed_difference):
        with pytest.raises(Refused, match="all of step 1 has come"):
            push_on(manifest(1).version, memoryview(b"x"))
    store.commit(manifest(1).version)
    assert bytes_of(store, manifest(1).version) == whole(1)


def test_a_restart_of_either_side_between_any_two_messages_costs_a_push_and_nothing_else(
    tmp_path: pathlib.Path,
) -> None:
    store = VersionStore(tmp_path, keep=4)
    first = push(store, 1)
    second = manifest(2, first)
    for messages in range(3):  # begun, written, taken
        place, _ = begun(store, second)
        if messages >= 1:
            put(place, whole(2))
        if messages >= 2:
            store.staging.take_written(second.version, TENSORS)
        before, store = place, VersionStore(tmp_path, keep=4)
        assert store.newest == first.version and not before.exists()
        with pytest.raises(NotStaged):
            store.staging.take_written(second.version, TENSORS)
    place, _ = begun(store, second)
    stale = place.open("r+b")  # of a learner that was begun again, and writes on
    begun(store, second)
    stale.write(b"garbage")
    stale.close()
    put(place, whole(2))
    store.staging.take_written(second.version, TENSORS)
    store.commit(second.version)
    assert bytes_of(store, second.version) == whole(2)


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"garbage", DifferenceError), (bytes(SIZE + 1), DifferenceError), (None, ChecksumError)],
    ids=["none", "too long", "of another version"],
)
def test_a_written_difference_that_makes_no_version_leaves_nothing(
    tmp_path: pathlib.Path, data: bytes | None, error: type[Exception]
) -> None:
    store = VersionStore(tmp_path, keep=4)
    first = push(store, 1)
    third = manifest(3, first)
    _, place = begun(store, third)
    assert place is not None
    put(place, data if data is not None else difference(first, manifest(2, first)))
    with pytest.raises(error):
        store.staging.take_written(third.version, DIFFERENCE)
    assert store.newest == first.version and not list(tmp_path.glob("*.staging"))


def test_a_written_difference_counts_towards_the_quota(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=4, quota=SIZE + 50)
    first = push(store, 1)
    second = manifest(2, first)
    _, place = begun(store, second)
    assert place is not None
    put(place, bytes(51))
    with pytest.raises(NoRoom, match="--staged-gib"):
        store.staging.take_written(second.version, DIFFERENCE)


def test_where_there_are_no_leases_no_file_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, kind: int) -> bool:
        raise OSError("no leases here")

    monkeypatch.setattr("services.weight_sync.disk.leases.lease", none)
    store = VersionStore(tmp_path, keep=4)
    store.begin(manifest(1))
    assert store.staging.places(manifest(1).version) is None
    assert leases.can_lease(tmp_path / "nowhere") is False
