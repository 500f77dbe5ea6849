"""Which checkpoints stay."""

import dataclasses
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from penstock.recipes.sections import Checkpoints
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints.directory import CheckpointError, DamagedCheckpoint, Manifest
from services.learner.checkpoints.resume import load_newest
from services.learner.checkpoints.retention import prune

REWARD = "rl.reward.mean"


def save(root: Path, step: int, reward: float | None = None) -> None:
    path = checkpoints.path_of(root, step)
    path.mkdir()
    extra = {} if reward is None else {"metrics": {REWARD: reward}}
    manifest = dataclasses.asdict(Manifest({}, {}, extra, {}))
    (path / "manifest.json").write_text(json.dumps({"format": 2, **manifest}))


def steps(root: Path) -> list[int]:
    return [int(p.name[5:]) for p in checkpoints.present(root)]


def test_the_newest_stay(tmp_path: Path) -> None:
    for step in (5, 9, 10, 1000000):
        save(tmp_path, step)
    assert [p.name for p in prune(tmp_path, Checkpoints(keep=2))] == ["step-000009", "step-000005"]
    assert steps(tmp_path) == [1000000, 10]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000010", "step-1000000"]
    with pytest.raises(ValidationError, match="keep"):
        Checkpoints(keep=0)


@pytest.mark.parametrize(("largest", "stay"), [(True, [8, 7, 5, 2]), (False, [8, 7, 6, 1])])
def test_the_best_stay_beside_the_newest(tmp_path: Path, largest: bool, stay: list[int]) -> None:
    rewards = {1: 0.1, 2: 0.9, 3: 0.5, 4: None, 5: 0.8, 6: 0.2, 7: 0.3, 8: 0.4}
    for step, reward in rewards.items():
        save(tmp_path, step, reward)
    prune(tmp_path, Checkpoints(keep=2, keep_best=2, better="larger" if largest else "smaller"))
    assert steps(tmp_path) == stay


def test_the_best_may_be_among_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step, reward=step / 10)
    prune(tmp_path, Checkpoints(keep=2, keep_best=1))
    assert steps(tmp_path) == [4, 3]


def test_of_equally_good_ones_the_newer_stays(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, reward=0.5 if step < 3 else 0.1)
    prune(tmp_path, Checkpoints(keep=1, keep_best=1))
    assert steps(tmp_path) == [3, 2]


def test_what_a_run_cannot_go_on_from_is_not_tried(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)

    def damaged(path: Path) -> dict[str, int]:
        if path.name != "step-000001":
            raise DamagedCheckpoint("x")
        return {"step": 1}

    assert load_newest(tmp_path, damaged) == (1, {"step": 1})
    with pytest.raises(CheckpointError, match="none of the 2 newest"):
        load_newest(tmp_path, damaged, among=2)
