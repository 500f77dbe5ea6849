"""Checkpoints on a full disk: an error that names file and cause, the one before intact, and no rank left waiting."""

import pathlib

import pytest
import torch
import torch.distributed as dist

from penstock.testing.small_disk import fill, run_on_small_disk
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints.directory import CheckpointError
from services.learner.interface.snapshot import Snapshot

DISK = 8 << 20
MODEL, LAYOUT = {"layers": 1}, {"tp": 1}


def save(root: pathlib.Path, step: int) -> None:
    shards = {"model-pp0-tp0.pt": {"w": torch.full((1 << 18,), float(step))}, "rank-00000.pt": {"step": step}}
    checkpoints.write(checkpoints.path_of(root, step), Snapshot(shards, MODEL, LAYOUT), {"step": step})


def newest(root: pathlib.Path) -> int | None:
    def load(path: pathlib.Path) -> dict[str, int]:
        manifest = checkpoints.manifest_of(path)
        states = checkpoints.read(path, manifest, ["model-pp0-tp0.pt", "rank-00000.pt"])
        extra = manifest.extra
        assert states[0]["w"].unique().tolist() == [extra["step"]] and states[1] == {"step": extra["step"]}
        return extra

    found = checkpoints.load_newest(root, load)
    return found[0] if found else None


def scenario(folder: pathlib.Path) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    root = folder / "checkpoints"
    save(root, 2)
    ballast = fill(folder)
    small = ballast.stat().st_size > DISK // 2
    for leave in (0, 5_000, 100_000, 1_000_000, 1_049_500) if small else ():
        ballast.unlink()
        ballast = fill(folder, leave)
        with pytest.raises(CheckpointError, match="step-000004 was not written: rank 0: disk full: .*step-000004.part"):
            save(root, 4)
        assert newest(root) == 2 and [p.name for p in root.iterdir()] == ["step-000002"]
    if not small:
        shards = {"model-pp0-tp0.pt": {"w": torch.zeros(DISK // 4)}}
        with pytest.raises(CheckpointError, match="rank 0: disk full: .*model-pp0-tp0.pt"):
            checkpoints.write(checkpoints.path_of(root, 4), Snapshot(shards, MODEL, LAYOUT), {})
        assert newest(root) == 2
    ballast.unlink()
    save(root, 4)
    assert newest(root) == 4
    dist.destroy_process_group()


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_it(tmp_path: pathlib.Path) -> None:
    run_on_small_disk("services.learner.checkpoints.full_disk_test:scenario", tmp_path / "disk", DISK)
