"""The researcher's walk: an own reward and W&B beside what the locks pin; a run is looked at, changed, gone on with and
measured, by the docs' commands."""

import json
import os
import pathlib
import time

import pytest
from google.protobuf.json_format import ParseDict

from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.histories.history import summary_of
from tests.e2e.testing.runs import penstock, recipe, training

PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "my-package"
version = "1"
[project.entry-points."penstock.rewards"]
early = "my_package:early"
[tool.setuptools]
packages = ["my_package"]
"""
REWARD = '''\
from penstock.sdk import Sample, reward


@reward
def early(sample: Sample) -> float:
    """How early the first a comes."""
    return 1 / (1 + sample.completion.find("a")) if "a" in sample.completion else 0.0
'''
STEPS = 6


def done(folder: pathlib.Path, *words: str, within: float = 300) -> str:
    said = penstock(folder, *words, within=within)
    assert said.returncode == 0, f"{' '.join(words)}: {said.stdout}"
    return said.stdout


def test_a_researcher_brings_a_reward_and_a_tracker_looks_changes_and_goes_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    mine = tmp_path / "mine" / "my_package"
    mine.mkdir(parents=True)
    (mine.parent / "pyproject.toml").write_text(PROJECT)
    (mine / "__init__.py").write_text(REWARD)
    path = recipe(tmp_path, steps=STEPS)
    settings = json.loads(path.read_text())
    settings["environment"] = {"name": "early"}
    settings["telemetry"] = {"wandb_project": "walk"}
    path.write_text(json.dumps(settings))
    refused = penstock(tmp_path, "config", str(path), within=60)
    assert refused.returncode == 2 and "early" in refused.stdout, "neither is here yet"
    assert "reward early" in done(tmp_path, "env", "add", "environment", "mine")
    done(tmp_path, "env", "add", "coordinator", "wandb", within=500)

    with training(tmp_path, path, "packages.folder=packages") as run:
        assert run.end(within=400) == 0, run.report("the run failed")
        assert list((tmp_path / "wandb").glob("offline-run-*")), "W&B has the run"
    assert "done" in done(tmp_path, "ls")
    with training(tmp_path, path, "packages.folder=packages", "algorithm.steps=8", f"{RATE}=3e-5") as run:
        assert run.end(within=400) == 0, run.report("it did not go on")
    changed = [text.partition(": ")[2] for text in summary_of(tmp_path / "runs" / "r")["changes"]]
    assert changed == ["algorithm.steps 6 -> 8", f"{RATE} 0.0001 -> 3e-05"]

    began = time.monotonic()
    samples = json.loads(done(tmp_path, "samples", "r", "--json"))
    took = time.monotonic() - began
    print(f"samples of a finished run: {took:.2f} s")  # noqa: T201 - a figure of docs/benchmarks.md
    assert len(samples) == 10 and all(ParseDict(each, pb.Sample()).components for each in samples)
    state = ParseDict(json.loads(done(tmp_path, "status", "r", "--json")), pb.Run())
    assert (state.state, state.step, list(state.changes)[-1].partition(": ")[2]) == (pb.RUN_STATE_DONE, 8, changed[-1])
    done(tmp_path, "plot", "r", "--output", "curves.svg")
    assert (tmp_path / "curves.svg").stat().st_size > 1000
    checkpoints = sorted(str(each) for each in (tmp_path / "runs" / "r" / "checkpoints").glob("step-*"))[-2:]
    table = done(tmp_path, "eval", str(path), "packages.folder=packages", "--models", *checkpoints, within=600)
    assert all(pathlib.Path(each).name in table for each in checkpoints)
    compared = json.loads(done(tmp_path, "compare", "r", *sorted(p.name for p in _others(tmp_path)), "--json"))
    assert compared["numbers"]["eval.reward"] and os.environ["WANDB_MODE"] == "offline"


RATE = "learner.optimizer.learning_rate"


def _others(folder: pathlib.Path) -> list[pathlib.Path]:
    """The runs beside the one that was trained."""
    return [each for each in (folder / "runs").iterdir() if each.name != "r" and (each / "recipe.yaml").is_file()]
