"""Where a run's numbers go: metrics.jsonl, summary.json, TensorBoard; Weights & Biases and MLflow when asked for."""

import json
import logging
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Protocol

from penstock.recipes.sections import Telemetry

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes the metrics of one step."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...


class JsonLines:
    """metrics.jsonl: one object per step. Steps that are in the file already are not written again."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._last = 0
        if path.exists():
            whole, _, torn = path.read_text().rpartition("\n")
            if torn:  # the process was killed in mid-write
                path.write_text(whole + "\n" if whole else "")
            for line in whole.splitlines():
                self._last = max(self._last, int(json.loads(line)["step"]))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if step <= self._last:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._last = step


class TensorBoard:
    """Event files that `tensorboard --logdir` shows."""

    def __init__(self, folder: pathlib.Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        values = [summary_pb2.Summary.Value(tag=k, simple_value=v) for k, v in metrics.items()]
        summary = summary_pb2.Summary(value=values)
        self._writer.add_event(event_pb2.Event(step=step, wall_time=time.time(), summary=summary))
        self._writer.flush()


class Wandb:
    """A Weights & Biases run."""

    def __init__(self, project: str, run: str) -> None:
        import wandb

        self._run = wandb.init(project=project, name=run, id=run, resume="allow")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)


class Mlflow:
    """An MLflow run."""

    def __init__(self, experiment: str, run: str) -> None:
        import mlflow

        mlflow.set_experiment(experiment)
        mlflow.start_run(run_name=run)
        self._mlflow = mlflow

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(metrics), step=step)


def sinks(folder: pathlib.Path, run: str, telemetry: Telemetry) -> list[Sink]:
    """The sinks of a run. One that is asked for but not installed is reported and left out; the run goes on."""
    made: list[Sink] = [JsonLines(folder / "metrics.jsonl")]
    wanted: list[Any] = []
    if telemetry.tensorboard:
        wanted.append(lambda: TensorBoard(folder / "tensorboard"))
    if telemetry.wandb_project:
        wanted.append(lambda: Wandb(telemetry.wandb_project or "", run))
    if telemetry.mlflow_experiment:
        wanted.append(lambda: Mlflow(telemetry.mlflow_experiment or "", run))
    for make in wanted:
        try:
            made.append(make())
        except ImportError as error:
            logger.warning("a metrics sink is asked for but not installed: %s", error)
    return made


def write_summary(path: pathlib.Path, summary: Mapping[str, Any]) -> None:
    """Writes summary.json atomically."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(summary, indent=2) + "\n")
    temporary.replace(path)
