"""The sinks that users install by themselves, with the real libraries: what a run logs can be read back from them.

Each coordinator is a process of its own, as in life: Weights & Biases and MLflow finish their files as it ends, and a
restarted coordinator offers every step again.
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

from penstock.recipes.sections import Telemetry
from services.coordinator.reporting.sinks import Guarded, JsonLines, TensorBoard, sinks

METRICS = {"rl.reward.mean": 0.25, "rl.loss": -1.5}


def coordinate(folder: str, telemetry: str, first: int, last: int) -> None:
    """What a coordinator does with its sinks: offers steps `first` to `last`; the step is added to every value."""
    made = sinks(pathlib.Path(folder), "run-1", Telemetry.model_validate_json(telemetry))
    assert [type(sink) for sink in made][1:] == [Guarded]
    for step in range(first, last + 1):
        for sink in made:
            sink.write(step, {name: value + step for name, value in METRICS.items()})
    assert not getattr(made[1], "_failing", True)


def run_coordinator(folder: pathlib.Path, telemetry: Telemetry, first: int, last: int, **environment: str) -> None:
    call = f"import tests.sinks.sinks_test as t; t.coordinate({str(folder)!r}, {telemetry.model_dump_json()!r}"
    done = subprocess.run(
        [sys.executable, "-c", f"{call}, {first}, {last})"],
        env={**os.environ, **environment, "HOME": str(folder)},
        cwd=pathlib.Path.cwd(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout


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


def wandb_history(path: pathlib.Path) -> dict[int, dict[str, float]]:
    """Step -> metrics of an offline run's file."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # it looks for protobuf's version, and takes all names of a module for that
    steps = dict[int, dict[str, float]]()
    for data in wandb_records(path.read_bytes()):
        record = messages.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            steps[int(record.history.step.num)] = {k: v for k, v in items.items() if k in METRICS}
    return steps


def expected(first: int, last: int) -> dict[int, dict[str, float]]:
    return {step: {name: value + step for name, value in METRICS.items()} for step in range(first, last + 1)}


def test_weights_and_biases_has_every_step(tmp_path: pathlib.Path) -> None:
    telemetry = Telemetry(tensorboard=False, wandb_project="penstock")
    run_coordinator(tmp_path, telemetry, 1, 3, WANDB_MODE="offline", WANDB_DIR=str(tmp_path), WANDB_SILENT="true")
    (written,) = tmp_path.glob("wandb/offline-run-*-run-1/run-run-1.wandb")
    assert wandb_history(written) == expected(1, 3)


def test_mlflow_has_every_step_once_in_one_run_also_after_a_restart(tmp_path: pathlib.Path) -> None:
    from mlflow.tracking import MlflowClient

    telemetry, uri = Telemetry(tensorboard=False, mlflow_experiment="penstock"), f"sqlite:///{tmp_path}/mlflow.db"
    for first, last in ((1, 3), (1, 5)):
        run_coordinator(tmp_path, telemetry, first, last, MLFLOW_TRACKING_URI=uri)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("penstock")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run-1", "FINISHED")
    for name, value in METRICS.items():
        history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        assert history == [(step, value + step) for step in range(1, 6)]


def test_a_sink_that_cannot_be_opened_is_left_out(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    made = sinks(tmp_path, "run-1", Telemetry(tensorboard=False, mlflow_experiment="penstock"))
    assert [type(sink) for sink in made] == [JsonLines]


def test_tensorboard_has_every_step(tmp_path: pathlib.Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoard(tmp_path)
    for step, metrics in expected(1, 3).items():
        sink.write(step, metrics)
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    for name, value in METRICS.items():
        points = [(e.step, e.value) for e in found.Scalars(name)]
        assert points == [(step, pytest.approx(value + step)) for step in (1, 2, 3)]
