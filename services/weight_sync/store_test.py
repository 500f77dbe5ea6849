"""The store's promises: nothing half-pushed is visible, versions never go back, old learners are fenced."""

import errno
import os
import pathlib

import pytest

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.tensors import ChecksumError, ManifestError, digest, make_manifest
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.errors import AlreadyStored, Incomplete, NoRoom, NotKept, NotStaged, Refused
from services.weight_sync.pushing.staging import STAGED
from services.weight_sync.standing.decisions import LIFECYCLE
from services.weight_sync.store import VersionStore


def whole(step: int) -> bytes:
    return bytes([step % 251]) * 3000


def manifest(step: int, epoch: int = 1, data: bytes | None = None) -> pb.Manifest:
    data = whole(step) if data is None else data
    return make_manifest(epoch, step, [("a", "bfloat16", [500], data[:1000]), ("b", "float32", [500], data[1000:])])


def push(store: VersionStore, step: int, epoch: int = 1) -> PolicyVersion:
    m = manifest(step, epoch)
    store.begin(m)
    store.staging.feed(m.version, memoryview(whole(step)))
    return store.commit(m.version)


def files(folder: pathlib.Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_half_pushed_version_is_never_visible(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=4)
    m = manifest(1)
    store.begin(m)
    for end in (0, 999, 1000, 2999):
        assert store.newest is None and store.get(m.version) is None
        received = store.staging.feed(m.version, memoryview(whole(1))[:end]) if end else 0
        with pytest.raises(Incomplete, match=f"{received} of 3000 bytes"):
            store.commit(m.version)
        store.begin(m)
    store.staging.feed(m.version, memoryview(whole(1)))
    assert store.newest is None
    store.commit(m.version)
    stored = store.get(m.version)
    assert stored is not None and bytes(stored.view) == whole(1) and store.newest == m.version


def test_adapters_of_an_older_release_are_neither_begun_nor_taken_up_and_it_is_said_why(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their digest left scale and base out: a relay could have given others."""
    adapters, why = pb.Adapters(scale=2.0, base=bytes(32)), "leaves adapters.scale and adapters.base out"
    store = VersionStore(tmp_path, keep=4)
    made = make_manifest(1, 1, [("a", "float32", [750], whole(1))], adapters=adapters)
    store.begin(made)
    store.staging.feed(made.version, memoryview(whole(1)))
    store.commit(made.version)
    assert VersionStore(tmp_path, keep=4).newest == made.version
    made.version.digest = digest(made.tensors)
    (tmp_path / "00000001-0001.manifest").write_bytes(made.SerializeToString())
    after = VersionStore(tmp_path, keep=4)
    assert after.newest is None and not files(tmp_path) and why in caplog.text
    with pytest.raises(ManifestError, match=why):
        after.begin(made)


def test_what_a_crash_left_of_a_push_is_forgotten(tmp_path: pathlib.Path) -> None:
    before = VersionStore(tmp_path, keep=4)
    push(before, 1)
    m = manifest(2)
    before.begin(m)
    before.staging.feed(m.version, memoryview(whole(2))[:1500])
    # A kill between the two renames of a commit leaves the bytes without their manifest.
    (tmp_path / "00000003-0001.bin").write_bytes(whole(3))
    after = VersionStore(tmp_path, keep=4)
    assert after.newest == manifest(1).version
    assert [pb.VersionState.Name(i.state) for i in after.infos()] == ["VERSION_STATE_READY"]
    assert files(tmp_path) == ["00000001-0001.bin", "00000001-0001.manifest"]
    with pytest.raises(NotStaged):
        after.staging.feed(m.version, memoryview(b"x"))
    assert push(after, 2).step == 2


def test_a_version_whose_bytes_are_damaged_is_not_served_after_a_restart(tmp_path: pathlib.Path) -> None:
    push(VersionStore(tmp_path, keep=4), 1)
    push(VersionStore(tmp_path, keep=4), 2)
    push(VersionStore(tmp_path, keep=4), 3)
    (tmp_path / "00000003-0001.bin").write_bytes(whole(3)[:100])  # cut off by a power loss
    (tmp_path / "00000002-0001.manifest").write_bytes(b"\xff\xff")
    assert VersionStore(tmp_path, keep=4).newest == manifest(1).version
    assert files(tmp_path) == ["00000001-0001.bin", "00000001-0001.manifest"]


def test_an_older_learners_incarnation_is_refused(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=4)
    push(store, 5, epoch=2)
    with pytest.raises(Refused, match="epoch 1 is fenced"):
        store.begin(manifest(6, epoch=1))


def test_a_push_begun_before_the_fence_cannot_be_committed_after_it(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=4)
    old = manifest(6, epoch=1)
    store.begin(old)
    store.staging.feed(old.version, memoryview(whole(6)))
    push(store, 6, epoch=2)
    with pytest.raises(Refused, match="fenced"):
        store.commit(old.version)
    assert store.newest == manifest(6, epoch=2).version


def test_the_newest_kept_step_never_goes_down(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=4)
    push(store, 5)
    with pytest.raises(AlreadyStored):
        store.begin(manifest(5, epoch=2))
    other = manifest(5, epoch=2, data=b"z" * 3000)
    for bad in (other, manifest(4)):
        with pytest.raises(Refused, match="not after step 5"):
            store.begin(bad)
    assert store.newest is not None and store.newest.step == 5


def test_at_most_keep_versions_are_held_and_readers_of_a_retired_one_finish(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=2)
    held = store.get(push(store, 1))
    for step in range(2, 6):
        push(store, step)
    assert files(tmp_path) == [
        *(f"{s:08d}-0001.{kind}" for s in (4, 5) for kind in ("bin", "manifest")),
        "spare.staging",
    ]
    assert [(i.version.step, i.state) for i in store.infos()] == [
        *((s, pb.VERSION_STATE_READY) for s in (5, 4)),
        *((s, pb.VERSION_STATE_RETIRED) for s in (3, 2, 1)),
    ]
    assert store.get(manifest(1).version) is None
    assert held is not None and bytes(held.view) == whole(1)
    assert VersionStore(tmp_path, keep=1).newest == manifest(5).version
    assert len(files(tmp_path)) == 3


def test_the_next_version_has_a_retired_ones_file_unless_somebody_has_it_open(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=1)

    def inode(step: int) -> int:
        return (tmp_path / f"{step:08d}-0001.bin").stat().st_ino

    push(store, 1)
    first = inode(1)
    push(store, 2)
    push(store, 3)
    assert inode(3) == first
    mapped, opened = store.get(manifest(3).version), (tmp_path / "00000003-0001.bin").open("rb")
    push(store, 4)
    push(store, 5)
    assert mapped is not None and bytes(mapped.view) == opened.read() == whole(3) and inode(5) != first
    del mapped
    push(store, 6)
    push(store, 7)
    opened.seek(0)
    assert opened.read() == whole(3), "a receiver reads on"
    large = make_manifest(1, 8, [("a", "float32", [2000], bytes(8000))])
    store.begin(large)
    assert not (tmp_path / "spare.staging").exists()
    store.staging.feed(large.version, memoryview(bytes(8000)))
    store.commit(large.version)
    kept = store.get(large.version)
    assert kept is not None and bytes(kept.view) == bytes(8000)


def test_a_commit_holds_though_the_file_of_what_it_retires_is_gone(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=1)
    push(store, 1)
    (tmp_path / "00000001-0001.bin").unlink()
    push(store, 2)
    assert files(tmp_path) == ["00000002-0001.bin", "00000002-0001.manifest"]
    assert [(i.version.step, i.state) for i in store.infos()] == [
        (2, pb.VERSION_STATE_READY),
        (1, pb.VERSION_STATE_RETIRED),
    ]


def test_without_room_a_version_is_refused_and_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = VersionStore(tmp_path, keep=2)
    push(store, 1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(NoRoom, match="disk full: .* step 2 needs 3000 bytes .No space left"):
            store.begin(manifest(2))
    assert len(files(tmp_path)) == 2
    assert push(store, 2).step == 2


def test_wrong_bytes_and_surplus_bytes_are_refused(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=2)
    m = manifest(1)
    store.begin(m)
    with pytest.raises(ChecksumError, match="'a'"):
        store.staging.feed(m.version, memoryview(bytes(1000)))
    store.begin(m)
    with pytest.raises(ValueError, match="3001 bytes received"):
        store.staging.feed(m.version, memoryview(whole(1) + b"x"))
    store.staging.abort(m.version)
    store.staging.abort(m.version)
    assert files(tmp_path) == [] and store.infos() == []
    with pytest.raises(NotStaged):
        store.commit(m.version)


def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: pathlib.Path) -> None:
    m = manifest(1)
    m.version.digest = bytes(32)
    with pytest.raises(ManifestError, match="digest"):
        VersionStore(tmp_path, keep=2).begin(m)


def test_a_version_of_empty_tensors_can_be_stored(tmp_path: pathlib.Path) -> None:
    m = make_manifest(1, 1, [("nothing", "float32", [0], b"")])
    store = VersionStore(tmp_path, keep=2)
    store.begin(m)
    store.staging.feed(m.version, memoryview(b""))
    store.commit(m.version)
    assert VersionStore(tmp_path, keep=2).newest == m.version


def test_what_is_being_pushed_stays_within_the_quota(tmp_path: pathlib.Path) -> None:
    size = manifest(1).total_size
    store = VersionStore(tmp_path, keep=2, quota=2 * size)
    for step in range(1, 20):
        store.begin(manifest(step))
        assert len(list(tmp_path.glob("*.staging"))) <= STAGED
    with pytest.raises(NotStaged):
        store.staging.feed(manifest(1).version, memoryview(b""))
    small = VersionStore(tmp_path / "small", keep=2, quota=size - 1)
    with pytest.raises(NoRoom, match=r"--staged-gib"):
        small.begin(manifest(1))
    assert not list((tmp_path / "small").iterdir())


def served(store: VersionStore) -> int | None:
    version = store.served()
    return None if version is None else version.step


def test_what_is_served_is_not_retired_and_decisions_outlive_a_restart(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=2)
    push(store, 1)
    push(store, 2)
    store.decide(1, pb.DECISION_ROLL_BACK, "worse")
    for step in (3, 4, 5):
        push(store, step)
    again = VersionStore(tmp_path, keep=2)
    for each in (store, again):
        assert served(each) == 1 and each.newest == manifest(5).version
        assert [(i.version.step, i.state, i.reason) for i in each.infos() if i.state != pb.VERSION_STATE_RETIRED] == [
            (5, pb.VERSION_STATE_VERIFIED, ""),
            (4, pb.VERSION_STATE_VERIFIED, ""),
            (1, pb.VERSION_STATE_READY, "worse"),
        ]
    again.decide(5, pb.DECISION_PROMOTE, "")
    push(again, 6)
    assert served(again) == 6 and again.get(manifest(1).version) is None


def test_a_decision_of_a_version_that_is_not_kept_or_the_last_one_is_refused(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=2)
    push(store, 1)
    with pytest.raises(NotKept, match=r"version 7 is not kept \(kept: 1\)"):
        store.decide(7, pb.DECISION_PROMOTE, "")
    with pytest.raises(Refused, match="nothing would be left to serve"):
        store.decide(1, pb.DECISION_REJECT, "")
    assert served(store) == 1


def test_where_it_is_not_known_what_was_rejected_nothing_is_served_until_it_is_promoted(tmp_path: pathlib.Path) -> None:
    store = VersionStore(tmp_path, keep=4)
    for step in (1, 2):
        push(store, step)
    store.decide(2, pb.DECISION_REJECT, "NaN")
    (tmp_path / LIFECYCLE).write_text("{")
    again = VersionStore(tmp_path, keep=4)
    push(again, 3)
    assert served(again) is None
    again.decide(1, pb.DECISION_PROMOTE, "")
    assert served(again) == 1


def test_a_decision_that_cannot_be_written_down_does_not_count(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = VersionStore(tmp_path, keep=4)
    for step in (1, 2):
        push(store, step)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(NoRoom, match="disk full"):
            store.decide(2, pb.DECISION_REJECT, "NaN")
    assert served(store) == 2
