"""`penstock join`: this host's part of a run that another one has started."""

import asyncio
import pathlib
import signal
from typing import Annotated

import typer

from penstock.bus import BusError
from penstock.cli.joining import Joining, join, this_host
from penstock.supervisor import ServiceFailed, joined_counts_of
from penstock.system import exits
from penstock.terminal import console, failed, plain


def join_command(
    nats: Annotated[str, typer.Argument(help="nats://HOST:PORT of the run")],
    run: Annotated[str, typer.Argument(help="the run's name")],
    counts: Annotated[
        list[str],
        typer.Argument(
            metavar="KIND=COUNT...", help="as in generation=2 rollout=1, or learner=1: its ranks, or a node of several"
        ),
    ],
    secrets: Annotated[
        pathlib.Path | None, typer.Option(help="folder that holds the run's `secrets`; none for a run without any")
    ] = None,
    folder: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="where logs go, and checkpoints, which a learner's nodes share; runs/NAME-PLACE if not given"
        ),
    ] = None,
    place: Annotated[
        str | None, typer.Option(help="what this host is called in names; its host name if not given")
    ] = None,
    flag: Annotated[
        list[str] | None, typer.Option(help="a further flag of each service, as in --flag=--zone=a")
    ] = None,
) -> None:
    """Keep so many processes of a run on this host, until the run is over; SIGTERM drains them first."""
    where = place or this_host()
    kept = folder or pathlib.Path("runs", f"{run}-{where}")
    failures: list[BaseException] = []
    try:
        joining = Joining(nats, run, kept, secrets, tuple(flag or ()), where)
        asyncio.run(_until_over(joining, joined_counts_of(counts)))
    except* (ServiceFailed, ValueError, BusError, OSError) as group:
        failures += group.exceptions
    if failures:
        code = exits.FAILED if isinstance(failures[0], ServiceFailed) else exits.BAD_INPUT
        raise failed(str(failures[0]), code)


async def _until_over(joining: Joining, wanted: dict[str, int]) -> None:
    def restarted(name: str, how: str) -> None:
        console.print(plain(f"{name} {how} and is started again"))

    working = asyncio.ensure_future(join(joining, wanted, restarted))
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, working.cancel)
    console.print(
        plain(f"{joining.place} takes part in {joining.run} once that is there; logs: {joining.folder / 'logs'}")
    )
    try:
        over = await working
    except asyncio.CancelledError:
        console.print("drained and ended")
        return
    if over == "failed":
        raise ServiceFailed(f"run {joining.run!r} has failed; `penstock status {joining.run}` on its host says why")
    console.print(plain(f"run {joining.run!r} is over{f' ({over})' if over else ''}"))
