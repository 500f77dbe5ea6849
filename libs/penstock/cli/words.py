"""What all commands say alike: which run is meant and where runs lie, what was found, and why a command ends."""

import pathlib
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from penstock.system import exits

console = Console()
RunName = Annotated[str, typer.Argument(help="the run's name")]
Runs = Annotated[pathlib.Path, typer.Option("--runs", help="folder of run directories")]
DEFAULT_RUNS = pathlib.Path("runs")
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, on top of the recipe")]


def failed(message: str, code: int = exits.BAD_INPUT) -> typer.Exit:
    """Says why a command ends; to be raised."""
    Console(stderr=True).print(message, style="red", markup=False, highlight=False)
    return typer.Exit(code)


def unknown_run(run: str, runs: pathlib.Path) -> str:
    """That there is no such run, and which there are."""
    known = ", ".join(sorted(p.parent.name for p in runs.glob("*/recipe.yaml"))) or "none"
    return f"no run {run!r} below {runs} (runs there: {known})"


def table_of(rows: dict[str, Any], title: str) -> Table:
    """A table of two columns."""
    table = Table(title=title, show_header=False)
    for key, value in rows.items():
        table.add_row(key, str(value))
    return table
