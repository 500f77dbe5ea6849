"""The sinks that users install by themselves, with the real libraries: what a run logs can be read back from them.

Each coordinator is a process of its own, as in life: Weights & Biases and MLflow finish their files as it ends, and a
restarted coordinator offers every step and evaluation again.
"""

from __future__ import annotations

import json
import os
import pathlib
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.recipes import Recipe, resolve
from services.coordinator.reporting.sinks import Tracked, close, sinks
from services.coordinator.reporting.trackers.tracker import Text

METRICS = {"rl.reward.mean": 0.25, "rl.loss": -1.5}
NAMES = {"rl.reward.mean": "reward/mean", "rl.loss": "train/loss"}
EVALUATION = {"reward": 0.5, "pass@1": 0.75}
TEXTS = [Text("t1", "Sort cab.", "abc", 1.0), Text("t2", "Sort | ba.", "", None)]


def coordinate(folder: str, recipe: str, first: int, last: int, state: str) -> None:
    """What a coordinator does with its sinks: offers steps `first` to `last`, the step being added to every value, and
    two evaluations, the second of an older version; then the run is in `state`, or nothing is said."""
    made = sinks(pathlib.Path(folder), resolve(json.loads(recipe)))
    for step in range(first, last + 1):
        for sink in made:
            sink.step(step, {name: value + step for name, value in METRICS.items()})
    for step in (0, 2):
        for sink in made:
            sink.evaluation(step, {name: value + step for name, value in EVALUATION.items()}, TEXTS)
    for sink in made:
        if state:
            sink.end(state)
    close(made, within=60)
    assert [sink.tracking.lost for sink in made if isinstance(sink, Tracked)] == [0]


def run_coordinator(folder: pathlib.Path, recipe: Recipe, first: int, last: int, state: str, **variables: str) -> None:
    call = f"import tests.sinks.sinks_test as t; t.coordinate({str(folder)!r}, {recipe.model_dump_json()!r}"
    done = subprocess.run(
        [sys.executable, "-c", f"{call}, {first}, {last}, {state!r})"],
        env={**os.environ, **variables, "HOME": str(folder)},
        cwd=pathlib.Path.cwd(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def recipe_of(folder: pathlib.Path, **overrides: str | int | bool) -> Recipe:
    """A recipe that can be resolved; `overrides` are its keys with __ for the dot. The environment of this test has no
    tokenizer, and the sinks need none."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "train.jsonl").write_text('{"prompt": "a"}\n')
    raw = {
        "run": "r1",
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 5},
        "telemetry": {"tensorboard": False},
    }
    return resolve(raw, [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()])


@pytest.fixture
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("models")


def expected(first: int, last: int) -> dict[int, dict[str, float]]:
    return {step: {NAMES[name]: value + step for name, value in METRICS.items()} for step in range(first, last + 1)}


def run_id(folder: pathlib.Path) -> str:
    return str(json.loads((folder / "trackers.json").read_text())["id"])


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of an offline run's file: LevelDB's log format (blocks of 32 KiB, records in parts) after 7 bytes."""
    header, block, at, whole = 7, 32 * 1024, 7, b""
    assert data[:4] == b":W&B"
    while at + header <= len(data):
        if block - at % block < header:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + header])
        whole += data[at + header : at + header + length]
        at += header + length
        if kind in (1, 4):  # FULL, LAST
            yield whole
            whole = b""


def wandb_read(paths: list[pathlib.Path]) -> list[Any]:
    """The records of the files of an offline run, one file for each process."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # it looks for protobuf's version, and takes all names of a module for that
    return [messages.Record.FromString(data) for path in paths for data in wandb_records(path.read_bytes())]


def wandb_history(records: list[Any]) -> list[dict[str, Any]]:
    rows = [record.history.item for record in records if record.WhichOneof("record_type") == "history"]
    return [{i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in row} for row in rows]


def wandb_summary(records: list[Any]) -> dict[str, Any]:
    updates = [record.summary.update for record in records if record.WhichOneof("record_type") == "summary"]
    return {i.key or ".".join(i.nested_key): json.loads(i.value_json) for row in updates for i in row}


def wandb_config(records: list[Any]) -> dict[str, Any]:
    updates = [record.config.update for record in records if record.WhichOneof("record_type") == "config"]
    return {i.key or ".".join(i.nested_key): json.loads(i.value_json) for row in updates for i in row}


def test_weights_and_biases_has_every_step_and_evaluation_once_in_one_run_also_after_a_restart(
    tmp_path: pathlib.Path, models: pathlib.Path
) -> None:
    recipe = recipe_of(models, telemetry__wandb_project="penstock")
    offline = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    run_coordinator(tmp_path, recipe, 1, 3, "", **offline)
    run_coordinator(tmp_path, recipe, 1, 5, "failed", **offline)
    written = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    assert [path.stem for path in written] == [f"run-{run_id(tmp_path)}"] * 2
    records = wandb_read(written)
    rows = wandb_history(records)
    steps = [(row["train/step"], row) for row in rows if "train/loss" in row]
    assert [step for step, _ in steps] == [1, 2, 3, 4, 5]
    assert {step: {name: row[name] for name in NAMES.values()} for step, row in steps} == expected(1, 5)
    evaluations = [row for row in rows if "eval/reward" in row]
    assert [(row["train/step"], row["eval/pass_at_1"]) for row in evaluations] == [(0, 0.75), (2, 2.75)]
    config = wandb_config(records)
    assert config["algorithm"]["steps"] == recipe.algorithm.steps
    assert config["links"]["checkpoints"] == str(tmp_path / "checkpoints")
    assert wandb_summary(records)["state"] == "failed"
    assert [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"] == [0, 1]
    (tags,) = {tuple(r.run.tags) for r in records if r.WhichOneof("record_type") == "run" and r.run.tags}
    assert set(tags) == {"grpo", "model", "train"}
    tables = [json.loads(path.read_text()) for path in tmp_path.glob("wandb/*/files/media/table/**/*.json")]
    assert len(tables) == 2
    assert tables[0]["columns"] == Text.columns() and tables[0]["data"][0] == ["t1", "Sort cab.", "abc", 1.0]


@pytest.mark.parametrize(("state", "status"), [("done", "FINISHED"), ("failed", "FAILED"), ("stopped", "KILLED")])
def test_mlflow_has_every_step_and_evaluation_once_in_one_run_also_after_a_restart(
    state: str, status: str, tmp_path: pathlib.Path, models: pathlib.Path
) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("penstock", artifact_location=(tmp_path / "artifacts").as_uri())
    recipe = recipe_of(models, telemetry__mlflow_experiment="penstock")
    run_coordinator(tmp_path, recipe, 1, 3, "", MLFLOW_TRACKING_URI=uri)
    changed = recipe_of(models, telemetry__mlflow_experiment="penstock", algorithm__steps=9)
    run_coordinator(tmp_path, changed, 1, 5, state, MLFLOW_TRACKING_URI=uri)
    (run,) = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("r1", status)
    for name, value in METRICS.items():
        history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, NAMES[name])]
        assert history == [(step, value + step) for step in range(1, 6)]
    measured = client.get_metric_history(run.info.run_id, "eval/pass_at_1")
    assert [(m.step, m.value) for m in measured] == [(0, 0.75), (2, 2.75)]
    assert run.data.params["algorithm.steps"] == "5" and run.data.tags["changed.algorithm.steps"] == "9"
    tags = run.data.tags
    assert (tags["penstock.run"], tags["penstock.state"], tags["tag.grpo"]) == (run_id(tmp_path), state, "true")
    assert tags["penstock.export"] == str(tmp_path / "export")
    (table, _) = sorted(tmp_path.glob("artifacts/**/eval/*.json"))
    assert table.name == "sample_texts-000000.json"
    assert json.loads(table.read_text())["data"][1] == ["t2", "Sort | ba.", "", None]


def test_a_tracker_that_cannot_be_opened_costs_the_tracking_alone(
    tmp_path: pathlib.Path, models: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    made = sinks(tmp_path, recipe_of(models, telemetry__mlflow_experiment="penstock"))
    for sink in made:
        sink.step(1, METRICS)
    close(made, within=60)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1]
    assert isinstance(made[1], Tracked) and made[1].tracking.lost == 1


def test_tensorboard_has_every_step_and_evaluation_once_also_after_a_restart(
    tmp_path: pathlib.Path, models: pathlib.Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = recipe_of(models, telemetry__tensorboard=True)
    run_coordinator(tmp_path, recipe, 1, 2, "")
    run_coordinator(tmp_path, recipe, 1, 3, "stopped")
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    for name, value in METRICS.items():
        # By step: the files of two coordinators that began within one second are read in either order.
        points = sorted((e.step, e.value) for e in found.Scalars(NAMES[name]))
        assert points == [(step, pytest.approx(value + step)) for step in (1, 2, 3)]
    assert [(e.step, e.value) for e in found.Scalars("eval/reward")] == [(0, 0.5), (2, 2.5)]
    shown = {tag: found.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
    assert shown["state"] == "stopped" and '"steps": 5' in shown["recipe"]
    assert '| "t1" | "Sort cab." | "abc" | 1.0 |' in shown["eval/sample_texts"]
