"""The version store on a full disk: a named refusal, what is READY stays, and it goes on once there is room."""

import pathlib

import pytest

from penstock.tensors import make_manifest
from penstock.testing.small_disk import fill, run_on_small_disk
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.errors import NoRoom, NotStaged
from services.weight_sync.store import VersionStore

DISK = 8 << 20
SIZE = 3 << 20


def manifest(step: int, size: int = SIZE) -> pb.Manifest:
    return make_manifest(1, step, [("a", "float32", [size // 4], bytes([step]) * size)])


def push(store: VersionStore, step: int) -> None:
    store.begin(manifest(step))
    store.staging.feed(manifest(step).version, memoryview(bytes([step]) * SIZE))


def steps(store: VersionStore) -> list[int]:
    return [i.version.step for i in store.infos() if i.state == pb.VERSION_STATE_READY]


def a_version_that_does_not_fit(folder: pathlib.Path) -> None:
    store = VersionStore(folder / "store", keep=5)
    push(store, 1)
    store.commit(manifest(1).version)
    with pytest.raises(NoRoom, match=r"disk full: .* step 2 needs \d+ bytes"):
        store.begin(manifest(2, DISK))
    with pytest.raises(NotStaged):
        store.commit(manifest(2, DISK).version)
    assert steps(store) == steps(VersionStore(folder / "store", keep=5)) == [1]
    assert not list((folder / "store").glob("*.staging"))
    push(store, 2)
    store.commit(manifest(2).version)
    assert steps(store) == [2, 1]


def no_room_for_the_manifest(folder: pathlib.Path) -> None:
    store = VersionStore(folder / "store", keep=5)
    push(store, 1)
    store.commit(manifest(1).version)
    push(store, 2)
    ballast = fill(folder)
    if not ballast.stat().st_size > DISK // 2:
        return  # files are limited instead: a manifest is never too large for that
    with pytest.raises(NoRoom, match="disk full: .* manifest of step 2"):
        store.commit(manifest(2).version)
    assert steps(store) == [1]
    assert not list((folder / "store").glob("*.manifest.staging"))
    ballast.unlink()
    store.commit(manifest(2).version)  # the bytes need not be pushed again
    whole = store.get(manifest(2).version)
    assert whole is not None and whole.view == bytes([2]) * SIZE
    assert steps(VersionStore(folder / "store", keep=5)) == [2, 1]


@pytest.mark.parametrize("scenario", [a_version_that_does_not_fit, no_room_for_the_manifest])
def test_a_full_disk_refuses_one_version_and_loses_none(scenario: object, tmp_path: pathlib.Path) -> None:
    name = getattr(scenario, "__name__", "")
    run_on_small_disk(f"services.weight_sync.full_disk_test:{name}", tmp_path / "disk", DISK)
