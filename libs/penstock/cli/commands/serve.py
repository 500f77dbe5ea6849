"""`penstock serve`: one service in this process, as containers run it."""

import asyncio
import importlib
import importlib.util
import os
import pathlib
import sys
from typing import Annotated

import typer

from penstock.access import KINDS
from penstock.bus import BusError, RunNames, connect
from penstock.cli.joining import Joining, recipe_of
from penstock.process import flags, nats_login, security
from penstock.recipes import RecipeError
from penstock.supervisor import Joins, plan
from penstock.supervisor.plan import RUNS, launcher, runs_in
from penstock.system import exits
from penstock.terminal import failed

SERVICES = (*(kind for kind in KINDS if kind != "operator" and kind not in RUNS), "environment_adapters")
PARTS = {"environment_adapters": "adapters"}
"""What a service is called in a run, where that is another name."""
NEEDS = {"generation": "vllm", "learner": "torch", "reward_model": "torch", "environment_adapters": "verifiers"}
"""A package that tells the environment of a service from another's."""


def serve(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help=", ".join(SERVICES))],
) -> None:
    """Run one service in this process (what containers do). All further flags are the service's own; try --help.

    --join NATS --run NAME in place of them takes part in a run: its recipe, and the other services, are found there.
    """
    if service not in SERVICES:
        typer.echo(f"unknown service {service!r}; known: {', '.join(SERVICES)}", err=True)
        raise typer.Exit(exits.BAD_INPUT)
    words = list(context.args)
    if any(word == "--join" or word.startswith("--join=") for word in words):
        try:
            words = asyncio.run(joined_words(service, words))
        except (RecipeError, BusError, OSError, ValueError) as error:
            raise failed(str(error)) from error
    program = launcher(service)
    if program[0] != sys.executable:
        os.execv(program[0], [*program, *words])
    missing = [name for name in (f"services.{service}", NEEDS.get(service)) if name and not _is_there(name)]
    if missing:
        raise failed(
            f"{service} needs {missing[0]!r}, which this Python has not: start it where its packages are installed, or "
            f"name its program in PENSTOCK_LAUNCH_{service.upper()}"
        )
    sys.argv = [f"penstock serve {service}", *words]
    raise typer.Exit(importlib.import_module(f"services.{service}.__main__").main())


async def joined_words(service: str, words: list[str]) -> list[str]:
    """The flags of a service that joins a run: those that its recipe says, then those that were given, which count."""
    parser = flags(service, "")
    parser.add_argument("--join", required=True)
    parser.add_argument("--folder", type=pathlib.Path)
    args, _ = parser.parse_known_args(words)
    if args.run is None:
        raise ValueError("--join: which run is it? --run NAME says it")
    folder = args.folder or pathlib.Path("runs", args.run)
    login = nats_login(args, security(args, listens=False))
    async with connect(args.join, name=args.name, login=login, within=None) as bus:
        recipe = await recipe_of(bus, RunNames(args.run), folder, [service])
    joining = Joining(args.join, args.run, folder)
    part = "relay" if service == "weight_sync" and "--relay" in words else PARTS.get(service, service)
    name = args.name if args.name != service else f"{part}-{joining.place}-{os.getpid()}"
    if part == "relay":  # it finds again what it had
        name = args.name if args.name != service else f"{part}-{joining.place}"
    elif service in ("coordinator", "learner", "weight_sync", "dashboard"):
        name = args.name
    (planned,) = plan(recipe, folder, args.join, {name: f"{joining.host}:0"}, Joins(flags=()))
    return [*planned.command[runs_in(planned.command) :], *_without(words, "--join", "--folder")]


def _without(words: list[str], *names: str) -> list[str]:
    """The words but for these flags and their values."""
    left, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in names:
            skip = True
        elif not word.startswith(tuple(f"{name}=" for name in names)):
            left.append(word)
    return left


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
