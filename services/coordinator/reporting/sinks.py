"""Where a run's numbers go: metrics.jsonl, summary.json, TensorBoard; Weights & Biases and MLflow when asked for."""

import errno
import functools
import json
import logging
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from penstock.recipes.sections import Telemetry
from penstock.system.disk import writing

logger = logging.getLogger(__name__)
# How an MLflow run is found again, and how far it is.
_RUN_TAG, _STEP_TAG = "penstock.run", "penstock.step"


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
        """Appends the step's whole line, or nothing. Raises DiskFull."""
        if step <= self._last:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}  # JSON has no NaN
        line = (json.dumps({"step": step, **finite}) + "\n").encode()
        with writing(self._path), self._path.open("ab", buffering=0) as file:
            before = file.tell()
            if file.write(line) != len(line):  # the last bytes of the disk
                file.truncate(before)
                raise OSError(errno.ENOSPC, "a part of the line was written")
        self._last = step


class TensorBoard:
    """Event files that `tensorboard --logdir` shows."""

    def __init__(self, folder: pathlib.Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._make: Callable[[], Any] = functools.partial(EventFileWriter, str(folder))
        self._writer: Any = self._make()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        values = [summary_pb2.Summary.Value(tag=k, simple_value=v) for k, v in metrics.items()]
        summary = summary_pb2.Summary(value=values)
        self._writer = self._writer or self._make()
        try:
            self._writer.add_event(event_pb2.Event(step=step, wall_time=time.time(), summary=summary))
            self._writer.flush()
        except OSError:
            self._writer = None  # its thread is dead: the next step gets a file of its own
            raise


class Wandb:
    """A Weights & Biases run."""

    def __init__(self, project: str, run: str) -> None:
        import wandb

        self._run = wandb.init(project=project, name=run, id=run, resume="allow")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)


class Mlflow:
    """An MLflow run, the same one over restarts of the coordinator; it has every step once."""

    def __init__(self, experiment: str, run: str) -> None:
        import mlflow

        entity = mlflow.set_experiment(experiment)
        found = mlflow.MlflowClient().search_runs([entity.experiment_id], f"tags.`{_RUN_TAG}` = '{run}'")
        if found:  # of this coordinator's earlier life
            mlflow.start_run(run_id=found[0].info.run_id)
        else:
            mlflow.start_run(run_name=run, tags={_RUN_TAG: run})
        self._last = int(found[0].data.tags.get(_STEP_TAG, "0")) if found else 0
        self._mlflow = mlflow

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if step <= self._last:
            return
        self._mlflow.log_metrics(dict(metrics), step=step)
        self._mlflow.set_tag(_STEP_TAG, str(step))
        self._last = step


class Guarded:
    """A sink of somebody else's library: its failure loses that step there, is logged once, and stops nothing.

    metrics.jsonl has every step, so nothing is lost.
    """

    def __init__(self, inner: Sink) -> None:
        self._inner, self._name, self._failing = inner, type(inner).__name__, False

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        try:
            self._inner.write(step, metrics)
        except Exception as error:  # a boundary: these libraries raise what they like
            if not self._failing:
                logger.warning("%s does not take step %d and maybe later ones: %s", self._name, step, error)
            self._failing = True
            return
        self._failing = False


def sinks(folder: pathlib.Path, run: str, telemetry: Telemetry) -> list[Sink]:
    """The sinks of a run. One that is not installed or cannot be opened is reported and left out; the run goes on."""
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
            made.append(Guarded(make()))
        except ImportError as error:
            logger.warning("a metrics sink is asked for but not installed: %s", error)
        except Exception as error:  # a boundary: these libraries raise what they like
            logger.warning("a metrics sink is asked for but cannot be opened: %s: %s", type(error).__name__, error)
    return made


def write_summary(path: pathlib.Path, summary: Mapping[str, Any]) -> None:
    """Writes summary.json atomically: whole, or as it was. Raises DiskFull."""
    temporary = path.with_suffix(".tmp")
    try:
        with writing(path):
            temporary.write_text(json.dumps(summary, indent=2) + "\n")
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
