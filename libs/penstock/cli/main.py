"""The `penstock` command: starts runs and asks about them. Exit codes: 0 done, 1 the run failed, 2 bad input."""

import asyncio
import importlib
import pathlib
import sys
from typing import Annotated

import typer

from penstock.cli import inspecting
from penstock.cli.screen import train_on_screen

app = typer.Typer(
    help="Post-train language models by asynchronous reinforcement learning, as services.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.registered_commands += inspecting.app.registered_commands

Runs = Annotated[pathlib.Path, typer.Option("--runs", help="folder of run directories")]


@app.command()
def train(
    recipe: Annotated[pathlib.Path, typer.Argument(help="recipe file (YAML)")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value, on top of the recipe")] = None,
    runs: Runs = pathlib.Path("runs"),
) -> None:
    """Train a recipe on this host: start every service, show progress, keep everything alive, stop at the end."""
    raise typer.Exit(asyncio.run(train_on_screen(recipe, overrides or [], runs)))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def serve(
    context: typer.Context,
    service: Annotated[
        str, typer.Argument(help="coordinator, rollout, generation, environment, learner, weight_sync, dashboard")
    ],
) -> None:
    """Run one service in this process (what containers do). All further flags are the service's own; try --help."""
    known = ("coordinator", "rollout", "generation", "environment", "learner", "weight_sync", "dashboard")
    if service not in known:
        typer.echo(f"unknown service {service!r}; known: {', '.join(known)}", err=True)
        raise typer.Exit(2)
    sys.argv = [f"penstock serve {service}", *context.args]
    raise typer.Exit(importlib.import_module(f"services.{service}.__main__").main())


def main() -> None:
    """The console entry point."""
    app(prog_name="penstock")


if __name__ == "__main__":
    main()
