"""What all commands say alike: which run is meant, and where runs lie."""

import pathlib
from typing import Annotated

import typer

RunName = Annotated[str, typer.Argument(help="the run's name")]
Runs = Annotated[pathlib.Path, typer.Option("--runs", help="folder of run directories")]
PagePort = Annotated[
    int | None, typer.Option("--page-port", min=1, max=65535, help="port of the page; else a free one")
]
DEFAULT_RUNS = pathlib.Path("runs")
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, on top of the recipe")]


def unknown_run(run: str, runs: pathlib.Path) -> str:
    """That there is no such run, and which there are."""
    known = ", ".join(sorted(p.parent.name for p in runs.glob("*/recipe.yaml"))) or "none"
    return f"no run {run!r} below {runs} (runs there: {known})"
