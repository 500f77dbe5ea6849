"""`penstock migrate`: a recipe from another system's configuration."""

import pathlib
from typing import Annotated

import typer
import yaml
from rich.console import Console

from penstock.migrate import FRAMEWORKS, CannotRead, convert, read
from penstock.terminal import failed, plain


def migrate(
    framework: Annotated[str, typer.Argument(help=", ".join(FRAMEWORKS))],
    config: Annotated[
        pathlib.Path, typer.Argument(help="its configuration: YAML, JSON, or a command line of key=value")
    ],
) -> None:
    """Print another system's configuration as a recipe, and on stderr what could not be carried over and why."""
    if framework not in FRAMEWORKS:
        raise failed(f"{framework!r} is not one of {', '.join(FRAMEWORKS)}")
    try:
        keys, lost = read(config)
        converted = convert(framework, keys)
    except CannotRead as error:
        raise failed(str(error)) from error
    except (TypeError, ValueError) as error:
        raise failed(f"{config}: {error}") from error
    typer.echo(yaml.safe_dump(converted.recipe, sort_keys=False), nl=False)
    errors = Console(stderr=True, soft_wrap=True)
    for line in (*lost, *converted.said):
        errors.print(plain(line), highlight=False)
