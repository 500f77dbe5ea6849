"""The trackers that a recipe asks for, each in its thread, and how they are left at the end of a process."""

import importlib
import pathlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from penstock.packages.hosted import trackers
from penstock.recipes import Recipe
from services.coordinator.reporting.trackers.event_files import TensorBoard
from services.coordinator.reporting.trackers.identity import Notes
from services.coordinator.reporting.trackers.mlflow_run import Mlflow
from services.coordinator.reporting.trackers.tracker import INTERRUPTED, About, Tracker
from services.coordinator.reporting.trackers.tracking import Tracking
from services.coordinator.reporting.trackers.wandb_run import Wandb

CLOSE_SECONDS = 5.0


def about(recipe: Recipe, folder: pathlib.Path, run_id: str) -> About:
    """The run of a resolved recipe in its directory."""
    here = folder.absolute()
    return About(
        id=run_id,
        name=recipe.run,
        recipe=recipe.model_dump(mode="json"),
        tags=[recipe.algorithm.name, pathlib.PurePath(recipe.model.path).name, recipe.mode],
        links={"directory": str(here), "checkpoints": str(here / "checkpoints"), "export": str(here / "export")},
    )


def trackings(folder: pathlib.Path, recipe: Recipe) -> list[Tracking]:
    """Those of the recipe, each opening itself. One that cannot be opened is logged and told nothing."""
    telemetry = recipe.telemetry
    project, experiment = telemetry.wandb_project, telemetry.mlflow_experiment
    if not (telemetry.tensorboard or project or experiment or telemetry.trackers):
        return []
    notes = Notes(folder, recipe.run)
    told, made = about(recipe, folder, notes.id), list[Tracking]()
    if telemetry.tensorboard:
        made.append(Tracking("TensorBoard", notes, lambda: TensorBoard(folder / "tensorboard", told)))
    if project:
        made.append(Tracking("Weights & Biases", notes, lambda: Wandb(project, told)))
    if experiment:
        made.append(Tracking("MLflow", notes, lambda: Mlflow(experiment, told)))
    for name, settings in telemetry.trackers.items():
        made.append(Tracking(name, notes, partial(_own, name, told, settings)))
    return made


def _own(name: str, told: About, settings: Mapping[str, Any]) -> Tracker:
    """A tracker of somebody's package: what it announces is called with the run and its settings."""
    place = trackers().get(name)
    if place is None:
        raise LookupError(f"no package announces the tracker {name!r}")
    module, _, function = place.partition(":")
    made: Tracker = getattr(importlib.import_module(module), function)(told, **settings)
    return made


def close(made: Sequence[Tracking], within: float = CLOSE_SECONDS) -> None:
    """Lets all of them finish, `within` seconds together at most."""
    end = time.monotonic() + within
    for each in made:
        each.end(INTERRUPTED)
    for each in made:
        each.close(max(0.0, end - time.monotonic()))
