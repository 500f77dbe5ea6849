"""`penstock eval`: models measured on a recipe's held-out tasks, each as a run in which nothing is trained."""

import asyncio
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from penstock.cli.commands.export import ExportFailed, is_checkpoint, write_model
from penstock.cli.run_directory import RunRefused
from penstock.cli.screen import evaluations_table, train
from penstock.cli.words import DEFAULT_RUNS, Runs
from penstock.histories.history import MANY, History
from penstock.recipes import Recipe, RecipeError, load
from penstock.system import exits
from penstock.terminal import console, failed

LONGEST = 63
"""Characters of a run's name."""


@dataclass(frozen=True)
class Measurement:
    """What is measured: `model` is None for the recipe's own; `run` is the name under which it is done."""

    model: pathlib.Path | None
    run: str

    def overrides(self, given: Sequence[str]) -> list[str]:
        """What makes this measurement of a recipe."""
        model = [] if self.model is None else [f"model.path={self.model}"]
        return [*model, *(each for each in given if not each.startswith("run=")), f"run={self.run}", "mode=evaluate"]


def evaluate(
    recipe: Annotated[pathlib.Path, typer.Argument(help="recipe file (YAML) that has data.eval and an environment")],
    given: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]... [KEY=VALUE]...", help="models after --models; overrides of the recipe"),
    ] = None,
    model: Annotated[
        pathlib.Path | None,
        typer.Option(help="what to measure instead of the recipe's model: a Hugging Face directory, or a checkpoint"),
    ] = None,
    models: Annotated[bool, typer.Option("--models", help="measure each MODEL: --models A B C")] = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Measure models on a recipe's held-out tasks, with the recipe's own services; nothing is trained.

    The result is printed as a table, a column a model, and stands in runs/<name>-eval-<model>/summary.json (run=NAME
    chooses another beginning). The same command goes on with what was interrupted.
    """
    found = given or []
    named = [pathlib.Path(each) for each in found if "=" not in each] if models else []
    overrides = [each for each in found if "=" in each or not models]
    if models and (model is not None or not 0 < len(named) <= MANY):
        raise failed(f"--models: takes 1 to {MANY} models, as in --models A B C, and no --model beside it")
    if (models or model is not None) and any(each.startswith("model.path=") for each in overrides):
        raise failed("model.path: is what --model and --models say; give it in one way")
    try:
        wanted = measurements(recipe, named or [model], overrides)
        recipes = _resolved(recipe, wanted, overrides)
    except (RecipeError, RunRefused) as error:
        raise failed(str(error)) from error
    except ExportFailed as error:
        raise failed(str(error), exits.FAILED) from error
    results = []
    for each in recipes:
        code = asyncio.run(train(each, runs, console))
        if code != exits.DONE:
            raise typer.Exit(code)
        summary = History.of(runs / each.run).summary
        if summary.get("status") != "done":
            raise typer.Exit(exits.DONE)  # somebody stopped it, and was told so
        results.append(summary["eval"][-1])
    if len(results) > 1:
        console.print(evaluations_table(results, "evaluations", [label(each) for each in named]))


def measurements(
    recipe: pathlib.Path, models: Sequence[pathlib.Path | None], given: Sequence[str]
) -> list[Measurement]:
    """Each model under a run's name of its own, so that no evaluation is taken for another's.

    Raises:
        RecipeError: the recipe cannot be read.
        RunRefused: two models would have the same name.
    """
    chosen = [each.removeprefix("run=") for each in given if each.startswith("run=")]
    if chosen and len(models) == 1:
        return [Measurement(models[0], chosen[-1])]
    start = chosen[-1] if chosen else f"{load(recipe, given).run}-eval"
    found: dict[str, Measurement] = {}
    for model in models:
        name = start if model is None else f"{start}-{label(model)}"[:LONGEST].rstrip("-_")
        if name in found:
            raise RunRefused(
                f"--models: {found[name].model} and {model} would both be the run {name!r}; measure one alone"
            )
        found[name] = Measurement(model, name)
    return list(found.values())


def label(model: pathlib.Path) -> str:
    """What a model is called in names of runs and in tables: with its run's name, if a run wrote it."""
    path = model.absolute()
    if is_checkpoint(path):
        words = (path.parents[1].name, path.name)
    elif path.name.startswith("export"):
        words = (path.parent.name, path.name)
    else:
        words = ("", path.name)
    return re.sub(r"[^a-z0-9_]+", "-", "-".join(words).lower()).strip("-_")


def _resolved(recipe: pathlib.Path, wanted: Sequence[Measurement], given: Sequence[str]) -> list[Recipe]:
    """The recipe of each measurement, its checkpoint written as a model; bad input is refused before any is."""
    for each in wanted:
        own = each.model is not None and is_checkpoint(each.model)
        load(recipe, Measurement(None if own else each.model, each.run).overrides(given))
    return [load(recipe, Measurement(_model(each.model), each.run).overrides(given)) for each in wanted]


def _model(model: pathlib.Path | None) -> pathlib.Path | None:
    if model is None or not is_checkpoint(model):
        return model
    return write_model(model, model.parents[1] / f"export-{model.name}")
