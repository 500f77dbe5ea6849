"""`penstock train`: a recipe's run on this host, on the screen."""

import asyncio
import pathlib
from typing import Annotated

import typer

from penstock.cli.screen import train_on_screen
from penstock.cli.words import DEFAULT_RUNS, Overrides, PagePort, Runs


def train(
    recipe: Annotated[pathlib.Path, typer.Argument(help="recipe file (YAML)")],
    overrides: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    page_port: PagePort = None,
) -> None:
    """Train a recipe on this host: start every service, show progress, keep everything alive, stop at the end."""
    raise typer.Exit(asyncio.run(train_on_screen(recipe, overrides or [], runs, page_port)))
