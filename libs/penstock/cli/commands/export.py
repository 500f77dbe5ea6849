"""`penstock export`: a run's checkpoint as a Hugging Face directory, written by the learner's own program."""

import json
import os
import pathlib
import re
import subprocess
from typing import Annotated

import typer
import yaml

from penstock.cli.run_directory import RunRefused
from penstock.cli.words import DEFAULT_RUNS, Runs, unknown_run
from penstock.names import EXPORT_MARK
from penstock.supervisor.plan import launcher
from penstock.system import exits
from penstock.system.parent_death import mortal
from penstock.terminal import failed

_STEP = re.compile(r"step-(\d{6,})")


class ExportFailed(RuntimeError):
    """The learner could not write the model; the text is what it said."""


def export(
    run: Annotated[str, typer.Argument(help="the run's name")],
    step: Annotated[int | None, typer.Option(help="step of the checkpoint; the newest if absent")] = None,
    to: Annotated[pathlib.Path | None, typer.Option(help="where to; runs/RUN/export-step-NNNNNN if absent")] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Write a checkpoint as a Hugging Face model directory, with config, tokenizer and chat template."""
    try:
        if not (runs / run / "recipe.yaml").is_file():
            raise RunRefused(unknown_run(run, runs))
        checkpoint = checkpoint_of(runs / run, step)
        typer.echo(write_model(checkpoint, to or runs / run / f"export-{checkpoint.name}"))
    except RunRefused as error:
        raise failed(str(error)) from error
    except ExportFailed as error:
        raise failed(str(error), exits.FAILED) from error


def steps_of(run: pathlib.Path) -> dict[int, pathlib.Path]:
    """A run's checkpoints by step."""
    found = (run / "checkpoints").glob("step-*")
    return {int(match[1]): path for path in sorted(found) if (match := _STEP.fullmatch(path.name))}


def is_checkpoint(path: pathlib.Path) -> bool:
    """Whether a directory is a checkpoint of a run (and not a model)."""
    return _STEP.fullmatch(path.name) is not None and (path / "manifest.json").is_file()


def checkpoint_of(run: pathlib.Path, step: int | None) -> pathlib.Path:
    """The checkpoint of a step, the newest if None. Raises RunRefused, naming those there are."""
    steps = steps_of(run)
    if not steps or (step is not None and step not in steps):
        has = ", ".join(map(str, steps)) or "none"
        raise RunRefused(
            f"run {run.name!r} has no checkpoint{'' if step is None else f' of step {step}'} (steps: {has})"
        )
    return steps[max(steps) if step is None else step]


def write_model(checkpoint: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Writes a checkpoint as a Hugging Face directory, complete or not at all; gives `target`.

    Raises RunRefused where the run's recipe is missing or `target` holds something that no export wrote, ExportFailed
    with the learner's own words.
    """
    run = checkpoint.resolve().parents[1]
    if not (run / "recipe.yaml").is_file():
        raise RunRefused(f"{checkpoint}: no recipe.yaml in {run}, so nobody knows which model this is")
    if target.exists() and not (target / EXPORT_MARK).is_file() and (target.is_file() or any(target.iterdir())):
        raise RunRefused(f"{target} exists and no export of ours wrote it; choose another place")
    began_with = pathlib.Path(yaml.safe_load((run / "recipe.yaml").read_text())["model"]["path"])
    if target.exists() and began_with.exists() and target.samefile(began_with):
        raise RunRefused(f"{target} is the model that the run began with; choose another place")
    command = [*launcher("learner"), "--recipe", str(run / "recipe.yaml"), "--run-directory", str(run)]
    command += ["--checkpoint", str(checkpoint), "--export", str(target)]
    done = subprocess.run(
        mortal(command, os.getpid()), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise ExportFailed(f"{checkpoint} could not be exported: {_last_words(done.stderr)}")
    return target


def _last_words(text: str) -> str:
    """The message of the last line of a service's log, or the line itself."""
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line
