"""`penstock serve`: one service in this process, as containers run it."""

import importlib
import sys
from typing import Annotated

import typer

from penstock.access import KINDS
from penstock.system import exits

SERVICES = tuple(kind for kind in KINDS if kind != "operator")


def serve(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help=", ".join(SERVICES))],
) -> None:
    """Run one service in this process (what containers do). All further flags are the service's own; try --help."""
    if service not in SERVICES:
        typer.echo(f"unknown service {service!r}; known: {', '.join(SERVICES)}", err=True)
        raise typer.Exit(exits.BAD_INPUT)
    sys.argv = [f"penstock serve {service}", *context.args]
    raise typer.Exit(importlib.import_module(f"services.{service}.__main__").main())
