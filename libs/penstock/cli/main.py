"""The `penstock` command: starts runs and asks about them. Exit codes: 0 done, 1 the run failed, 2 bad input."""

import asyncio
import importlib
import pathlib
import sys
from typing import Annotated

import typer
from rich.console import Console

from penstock.bus import BusError
from penstock.cli import inspecting
from penstock.cli.exporting import ExportFailed, checkpoint_of, export, is_checkpoint
from penstock.cli.inspecting import failed, unknown_run
from penstock.cli.replaying import copy_run, replay_recipe
from penstock.cli.run_directory import RunRefused
from penstock.cli.screen import train, train_on_screen
from penstock.recipes import RecipeError, load

app = typer.Typer(
    help="Post-train language models by asynchronous reinforcement learning, as services.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.registered_commands += inspecting.app.registered_commands

Runs = Annotated[pathlib.Path, typer.Option("--runs", help="folder of run directories")]


@app.command(name="train")
def train_(
    recipe: Annotated[pathlib.Path, typer.Argument(help="recipe file (YAML)")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value, on top of the recipe")] = None,
    runs: Runs = pathlib.Path("runs"),
) -> None:
    """Train a recipe on this host: start every service, show progress, keep everything alive, stop at the end."""
    raise typer.Exit(asyncio.run(train_on_screen(recipe, overrides or [], runs)))


@app.command(name="eval")
def evaluate(
    recipe: Annotated[pathlib.Path, typer.Argument(help="recipe file (YAML) that has data.eval and an environment")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value, on top of the recipe")] = None,
    model: Annotated[
        pathlib.Path | None,
        typer.Option(help="what to measure instead of the recipe's model: a Hugging Face directory, or a checkpoint"),
    ] = None,
    runs: Runs = pathlib.Path("runs"),
) -> None:
    """Measure a model on a recipe's held-out tasks, with the recipe's own services; nothing is trained.

    The result is printed as a table and stands in runs/<name>-eval/summary.json (run=NAME chooses another name).
    """
    try:
        if model is not None and is_checkpoint(model):
            load(recipe, evaluation_overrides(recipe, None, overrides or []))  # bad input is refused before the export
            model = export(model, model.parents[1] / f"export-{model.name}")
        resolved = load(recipe, evaluation_overrides(recipe, model, overrides or []))
    except (RecipeError, RunRefused) as error:
        raise failed(str(error)) from error
    except ExportFailed as error:
        raise failed(str(error), 1) from error
    raise typer.Exit(asyncio.run(train(resolved, runs, Console())))


@app.command(name="export")
def export_(
    run: Annotated[str, typer.Argument(help="the run's name")],
    step: Annotated[int | None, typer.Option(help="step of the checkpoint; the newest if absent")] = None,
    to: Annotated[pathlib.Path | None, typer.Option(help="where to; runs/RUN/export-step-NNNNNN if absent")] = None,
    runs: Runs = pathlib.Path("runs"),
) -> None:
    """Write a checkpoint as a Hugging Face model directory, with config, tokenizer and chat template."""
    try:
        if not (runs / run / "recipe.yaml").is_file():
            raise RunRefused(unknown_run(run, runs))
        checkpoint = checkpoint_of(runs / run, step)
        typer.echo(export(checkpoint, to or runs / run / f"export-{checkpoint.name}"))
    except RunRefused as error:
        raise failed(str(error)) from error
    except ExportFailed as error:
        raise failed(str(error), 1) from error


@app.command()
def replay(
    run: Annotated[str, typer.Argument(help="the run whose recorded batches are trained again")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value: what to change")] = None,
    name: Annotated[str | None, typer.Option("--as", help="name of the new run; RUN-replay if absent")] = None,
    runs: Runs = pathlib.Path("runs"),
) -> None:
    """Train again from a run's log, with no generation at all: the same batches in the same order.

    Without changes the weights become bit-identical to the run's; with algorithm.loss.clip_high=0.3, say, it is an
    ablation on the same data.
    """
    source, target = runs / run, name or f"{run}-replay"
    if not (source / "recipe.yaml").is_file():
        raise failed(unknown_run(run, runs))
    try:
        replay_recipe(source, target, overrides or [], 1)  # bad input is refused before anything is copied
        steps = asyncio.run(copy_run(source, runs / target, target))
        recipe = replay_recipe(source, target, overrides or [], steps)
    except (RecipeError, RunRefused) as error:
        raise failed(str(error)) from error
    except (BusError, OSError) as error:
        raise failed(f"the log of {run!r} cannot be copied: {error}", 1) from error
    raise typer.Exit(asyncio.run(train(recipe, runs, Console())))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def serve(
    context: typer.Context,
    service: Annotated[
        str,
        typer.Argument(
            help="coordinator, rollout, generation, environment, reward_model, learner, weight_sync, dashboard"
        ),
    ],
) -> None:
    """Run one service in this process (what containers do). All further flags are the service's own; try --help."""
    known = (
        "coordinator",
        "rollout",
        "generation",
        "environment",
        "reward_model",
        "learner",
        "weight_sync",
        "dashboard",
    )
    if service not in known:
        typer.echo(f"unknown service {service!r}; known: {', '.join(known)}", err=True)
        raise typer.Exit(2)
    sys.argv = [f"penstock serve {service}", *context.args]
    raise typer.Exit(importlib.import_module(f"services.{service}.__main__").main())


def evaluation_overrides(recipe: pathlib.Path, model: pathlib.Path | None, given: list[str]) -> list[str]:
    """The overrides that make a measurement of a recipe. Raises RecipeError."""
    given = [*([] if model is None else [f"model.path={model}"]), *given]
    name = [] if any(o.startswith("run=") for o in given) else [f"run={load(recipe, given).run}-eval"]
    return [*given, *name, "mode=evaluate"]


def main() -> None:
    """The console entry point."""
    app(prog_name="penstock")


if __name__ == "__main__":
    main()
