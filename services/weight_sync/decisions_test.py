"""What was decided of versions, over restarts, damaged files and writes that fail: who waits for a person waits on."""

import pathlib
from typing import Any

import numpy as np
import pytest

from penstock.tensors import make_manifest
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.errors import NoRoom
from services.weight_sync.store import VersionStore

PROMOTE, REJECT, ROLL_BACK = pb.DECISION_PROMOTE, pb.DECISION_REJECT, pb.DECISION_ROLL_BACK


def stored(folder: pathlib.Path, *steps: int, tries: bool) -> VersionStore:
    store = VersionStore(folder, keep=9, tries=tries)
    for step in steps:
        data = np.full(64, step, np.float32).tobytes()
        made = make_manifest(1, step, [("a", "float32", [64], data)])
        store.begin(made)
        store.staging.feed(made.version, memoryview(data))
        store.commit(made.version)
    return store


def of(store: VersionStore) -> tuple[int | None, int | None]:
    """What is served, and what is on trial."""
    served, tried = store.served(), store.trying()
    return served.step if served else None, tried.step if tried else None


def no_room(*args: Any) -> None:
    raise OSError(28, "No space left on device")


def test_versions_that_were_served_are_not_tried_where_trials_are_switched_on_and_none_waits_where_they_are_off(
    tmp_path: pathlib.Path,
) -> None:
    assert of(stored(tmp_path, 0, 1, 2, tries=False)) == (2, None)
    assert of(stored(tmp_path, tries=True)) == (2, None)
    assert of(stored(tmp_path, 3, tries=True)) == (2, 3)
    assert of(stored(tmp_path, tries=True)) == (2, 3), "a restart with trials tries what waits"
    assert of(stored(tmp_path, tries=False)) == (3, None)
    store = stored(tmp_path, 4, tries=False)
    store.decide(3, ROLL_BACK, "")
    assert of(stored(tmp_path, tries=True)) == (3, None)
    assert of(stored(tmp_path, tries=False)) == (3, None), "a rollback stands"


def test_what_was_committed_behind_a_rollback_waits_on_over_restarts_once_that_is_over(tmp_path: pathlib.Path) -> None:
    stored(tmp_path, 1, 2, 3, tries=False).decide(1, ROLL_BACK, "worse")
    store = stored(tmp_path, 4, 5, tries=False)
    store.decide(1, PROMOTE, "")
    assert of(store) == of(stored(tmp_path, tries=False)) == (1, None)


@pytest.mark.parametrize("tries", [False, True])
def test_a_decision_that_a_full_disk_does_not_take_changes_nothing_and_ends_no_trial(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tries: bool
) -> None:
    stored(tmp_path, 1, tries=tries).decide(1, ROLL_BACK, "")
    stored(tmp_path, 2, tries=tries).decide(1, PROMOTE, "")
    store = stored(tmp_path, tries=tries)
    before = of(store)
    assert before == (1, 2 if tries else None)
    infos = store.infos()
    monkeypatch.setattr("services.weight_sync.standing.decisions.os.fsync", no_room)
    with pytest.raises(NoRoom, match="what is decided of version 1 cannot be kept"):
        store.decide(1, ROLL_BACK, "")
    assert store.infos() == infos and of(store) == before


@pytest.mark.parametrize("tries", [False, True])
def test_a_damaged_file_brings_back_nothing_that_was_rejected(tmp_path: pathlib.Path, tries: bool) -> None:
    stored(tmp_path, 1, 2, 3, tries=False).decide(3, REJECT, "not finite")
    (tmp_path / "lifecycle.json").write_text("{")
    store = stored(tmp_path, tries=tries)
    assert of(store) == (None, None)
    assert {info.reason for info in store.infos()} == {"lifecycle.json was damaged: it may have been rejected"}
    store.decide(2, PROMOTE, "the good one")
    assert of(store) == of(stored(tmp_path, tries=tries)) == (2, None)
    assert of(stored(tmp_path, tries=not tries)) == of(stored(tmp_path, tries=tries)) == (2, None)
