"""`penstock env`: packages of a user's own beside those that our locks pin."""

import pathlib
import subprocess
from typing import Annotated

import typer

from penstock.packages import Overlay, hosted
from penstock.packages.installing import InstallFailed, install
from penstock.supervisor.plan import launcher
from penstock.system import exits
from penstock.terminal import console, failed, plain

READERS = ("environment", "coordinator", "adapters")
"""The services that import packages of others: rewards and environments, trackers, and environments of other libraries.
The first two share an environment with the command line, and so one folder of packages; that of the adapters, whose
packages are those of another environment, serves them alone."""
DEFAULT_FOLDER = pathlib.Path("packages")

env = typer.Typer(help="Packages of your own: rewards, environments, trackers.", no_args_is_help=True)


@env.callback()
def group() -> None:
    """Packages of your own: rewards, environments, trackers."""


@env.command()
def add(
    service: Annotated[str, typer.Argument(help=" or ".join(READERS))],
    packages: Annotated[list[str], typer.Argument(help="what pip takes: names, folders with a pyproject.toml, wheels")],
    to: Annotated[pathlib.Path, typer.Option(help="the folder of packages")] = DEFAULT_FOLDER,
) -> None:
    """Install packages into a folder that a recipe names by `packages.folder`; what the locks pin stays as it is.

    The same command takes up changes of a package: the folder is made anew, of all that was ever asked for.
    """
    if service not in READERS:
        raise failed(
            f"SERVICE: {service!r} is not one of {', '.join(READERS)}; losses and their like of your own are "
            "files, which the recipe names by `plugins`"
        )
    overlay = Overlay(to)
    if service == "adapters":
        asked = ("--to", str(to.absolute()), "--install", *packages)
        done = subprocess.run([*launcher("environment_adapters"), *asked], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise failed(f"cannot install {' '.join(packages)}:\n{done.stdout.strip()}", exits.FAILED)
        console.print(plain(f"a recipe has them by packages.folder={to}"))
        return
    try:
        install(overlay, packages)
    except InstallFailed as error:
        raise failed(f"cannot install {' '.join(packages)}:\n{error}", exits.FAILED) from error
    except OSError as error:
        raise failed(f"--to: {to} cannot be written: {error.strerror}") from error
    for kind, here, beside in (
        ("reward", hosted.rewards(), hosted.rewards([overlay.site])),
        ("environment", hosted.environments(), hosted.environments([overlay.site])),
    ):
        for name in sorted(beside.keys() - here.keys()):
            console.print(plain(f"{kind} {name}: {beside[name]}"))
    console.print(plain(f"a recipe has them by packages.folder={to}"))
