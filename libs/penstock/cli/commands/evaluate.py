"""`penstock eval`: a model measured on a recipe's held-out tasks, as a run in which nothing is trained."""

import asyncio
import pathlib
from typing import Annotated

import typer
from rich.console import Console

from penstock.cli.commands.export import ExportFailed, is_checkpoint, write_model
from penstock.cli.run_directory import RunRefused
from penstock.cli.screen import train
from penstock.cli.words import DEFAULT_RUNS, Overrides, Runs
from penstock.recipes import RecipeError, load
from penstock.system import exits
from penstock.terminal import failed


def evaluate(
    recipe: Annotated[pathlib.Path, typer.Argument(help="recipe file (YAML) that has data.eval and an environment")],
    overrides: Overrides = None,
    model: Annotated[
        pathlib.Path | None,
        typer.Option(help="what to measure instead of the recipe's model: a Hugging Face directory, or a checkpoint"),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Measure a model on a recipe's held-out tasks, with the recipe's own services; nothing is trained.

    The result is printed as a table and stands in runs/<name>-eval/summary.json (run=NAME chooses another name).
    """
    try:
        if model is not None and is_checkpoint(model):
            load(recipe, evaluation_overrides(recipe, None, overrides or []))  # bad input is refused before the export
            model = write_model(model, model.parents[1] / f"export-{model.name}")
        resolved = load(recipe, evaluation_overrides(recipe, model, overrides or []))
    except (RecipeError, RunRefused) as error:
        raise failed(str(error)) from error
    except ExportFailed as error:
        raise failed(str(error), exits.FAILED) from error
    raise typer.Exit(asyncio.run(train(resolved, runs, Console())))


def evaluation_overrides(recipe: pathlib.Path, model: pathlib.Path | None, given: list[str]) -> list[str]:
    """The overrides that make a measurement of a recipe. Raises RecipeError."""
    given = [*([] if model is None else [f"model.path={model}"]), *given]
    name = [] if any(o.startswith("run=") for o in given) else [f"run={load(recipe, given).run}-eval"]
    return [*given, *name, "mode=evaluate"]
