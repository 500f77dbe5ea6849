"""Saving beside training: what is saved is one moment, and a save that fails or dies takes nothing with it."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from penstock.recipes.sections import Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.checkpoints import background as saving
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints.background import BackgroundWrite
from services.learner.checkpoints.resume import load_newest
from services.learner.interface.errors import CannotGoOn
from services.learner.testing.forked_ranks import RankFailed, run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

LAYOUTS = {
    "one": (1, Parallel()),
    "dp2": (2, Parallel()),
    "tp2": (2, Parallel(tensor=2)),
}
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def make(model_dir: Path, parallel: Parallel) -> MegatronPolicy:
    settings = Optimizer(learning_rate=1e-2)
    return MegatronPolicy.create(spec_of(model_dir, parallel, settings, seed=3))


def equal(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train(policy: MegatronPolicy, *seeds: int) -> Weights:
    for seed in seeds:
        make_trainer(recipe_of(), policy).step(random_batch(seed))
    return dict(policy.export())


class SlowDisk:
    """Every fsync waits until `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        fsync = os.fsync

        def slow(descriptor: int) -> None:
            self.reached.set()
            assert self.go.wait(60)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", slow)


def _train_while_saving(model_dir: Path, root: Path, parallel: Parallel) -> Any:
    policy, saver = make(model_dir, parallel), BackgroundWrite(root)
    at_save = train(policy, 1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        disk = SlowDisk(monkeypatch)
        saver.begin(1, policy.snapshot, {"log_cursor": 7})
        assert disk.reached.wait(60)
        after = train(policy, 2, 3)  # in the same process groups as ever, while the disk does nothing
        assert saver.busy and saver.pending == 1 and saver.collect() is None
        with pytest.raises(RuntimeError, match="step 1 is still being saved"):
            saver.begin(3, policy.snapshot, {})
        dist.barrier()
        assert checkpoints.present(root) == []
        disk.go.set()
        assert saver.collect(wait=True) == 1
    assert saver.collect() is None and not saver.busy
    return at_save, after


def _resume(model_dir: Path, root: Path, parallel: Parallel, *seeds: int) -> Any:
    policy = make(model_dir, parallel)
    restored = load_newest(root, policy.load)
    return restored, dict(policy.export()), train(policy, *seeds)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_saved_is_the_state_at_begin_whatever_is_trained_meanwhile(
    name: str, model_dir: Path, tmp_path: Path
) -> None:
    world, parallel = LAYOUTS[name]
    at_save, after = run_ranks(world, _train_while_saving, model_dir, tmp_path, parallel)[0]
    restored, loaded, again = run_ranks(world, _resume, model_dir, tmp_path, parallel, 2, 3)[0]
    assert restored == (1, {"log_cursor": 7})
    assert equal(loaded, at_save) and not equal(at_save, after)
    assert equal(again, after), "going on from the checkpoint is not what went on"


def _fail_thrice(model_dir: Path, root: Path) -> list[str]:
    policy, saver, patch = make(model_dir, Parallel()), BackgroundWrite(root), pytest.MonkeyPatch()
    train(policy, 1)
    saver.begin(1, policy.snapshot, {})
    assert saver.collect(wait=True) == 1
    if dist.get_rank() == 1:
        patch.setattr(policy.state, "rank_file", lambda: "no-such-directory/rank.pt")
    said: list[str] = []
    patch.setattr(saving.log, "error", lambda text, *values: said.append(text % values))
    for step in (2, 3):
        train(policy, step)
        saver.begin(step, policy.snapshot, {})
        assert saver.collect(wait=True) is None
    saver.begin(4, policy.snapshot, {})
    with pytest.raises(CannotGoOn, match="3 checkpoints in a row could not be saved: .*rank 1: "):
        saver.collect(wait=True)
    return said


def test_a_failed_save_is_said_on_every_rank_and_leaves_the_former(model_dir: Path, tmp_path: Path) -> None:
    for said in run_ranks(2, _fail_thrice, model_dir, tmp_path):
        assert len(said) == 3
        assert "step 2 is not saved, the checkpoint before it stands" in said[0] and "rank 1: " in said[0]
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"], "a full disk must not stay full of the attempt"


def _die_in_the_second_save(model_dir: Path, root: Path, parallel: Parallel) -> None:
    policy, saver = make(model_dir, parallel), BackgroundWrite(root)
    train(policy, 1)
    saver.begin(1, policy.snapshot, {"step": 1})
    saver.collect(wait=True)
    if dist.get_rank() == 0:
        pytest.MonkeyPatch().setattr(Path, "rename", lambda self, target: os.kill(os.getpid(), signal.SIGKILL))
    train(policy, 2)
    saver.begin(2, policy.snapshot, {"step": 2})
    saver.collect(wait=True)


@pytest.mark.parametrize("name", LAYOUTS)
def test_killed_in_a_save_the_run_goes_on_from_the_one_before(name: str, model_dir: Path, tmp_path: Path) -> None:
    world, parallel = LAYOUTS[name]
    with pytest.raises(RankFailed):
        run_ranks(world, _die_in_the_second_save, model_dir, tmp_path, parallel)
    assert (tmp_path / ".step-000002.partial").exists()
    assert run_ranks(world, _resume, model_dir, tmp_path, parallel)[0][0] == (1, {"step": 1})


def _in_the_foreground(model_dir: Path, root: Path) -> None:
    policy, saver = make(model_dir, Parallel()), BackgroundWrite(root, background=False)
    saver.begin(1, policy.snapshot, {"step": 1})
    assert checkpoints.present(root) and not saver.busy
    assert saver.collect() == 1


def test_in_the_foreground_the_step_waits_for_the_disk(model_dir: Path, tmp_path: Path) -> None:
    run_ranks(1, _in_the_foreground, model_dir, tmp_path)
