"""`penstock page`: the page of a run that is under way, that is over, or of all runs of a folder."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import pathlib
import signal
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from penstock.bus import BusError
from penstock.bus.embedded import free_ports
from penstock.chat import TemplateError
from penstock.cli.asking import coordinator_of
from penstock.cli.credentials import certificates_of, page_key_of
from penstock.cli.ports import port_problem
from penstock.cli.run_directory import ADDRESSES, RunRefused
from penstock.cli.words import DEFAULT_RUNS, PagePort, Runs, unknown_run
from penstock.recipes import RecipeError
from penstock.supervisor import Service, ServiceFailed, Supervisor
from penstock.supervisor.plan import PAGE_KEY, launcher
from penstock.system import exits
from penstock.system.secret_files import made_secret
from penstock.terminal import console, failed

KEYS = ".page"
"""In a folder of runs: what opens the page of all of them, and its log."""


def page(
    run: Annotated[
        str | None, typer.Argument(help="the run's name; all runs of the folder where none is given")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    port: PagePort = None,
) -> None:
    """Show the page of a run, under way or over, or of all runs beside each other, until Ctrl-C."""
    if run is not None and not (runs / run / "recipe.yaml").is_file():
        raise failed(unknown_run(run, runs))
    if run is None and not runs.is_dir():
        raise failed(f"--runs: {runs} is no folder")
    if "PENSTOCK_LAUNCH_DASHBOARD" not in os.environ and importlib.util.find_spec("services") is None:
        raise failed("the page is not part of this package; in the source tree: ./bazelw run //:penstock -- page")
    if problem := port_problem(port):
        raise failed(problem)
    try:
        asyncio.run(_serve(runs, run, port))
    except* ServiceFailed as group:
        raise failed(f"the page cannot be kept alive: {group.exceptions[0]}", exits.FAILED) from group
    except* (RunRefused, RecipeError, TemplateError, OSError, BusError) as group:
        raise failed(f"{run or runs}: {group.exceptions[0]}") from group


async def _serve(runs: pathlib.Path, run: str | None, port: int | None) -> None:
    """Serves the page until the process is asked to end; of a run under way, says where its page is."""
    listen = f"127.0.0.1:{port or free_ports(1)[0]}"
    async with AsyncExitStack() as stack:
        if run is None:
            key_file, shown = runs / KEYS / "page.key", []
            logs = runs / KEYS
        else:
            folder = runs / run
            coordinator = await stack.enter_async_context(coordinator_of(folder))
            if not coordinator.startswith("unix:"):
                console.print(_under_way(folder), markup=False, highlight=False, soft_wrap=True)
                return
            key_file, shown = folder / PAGE_KEY, ["--coordinator", coordinator]
            logs = folder / "logs"
        key = made_secret(key_file)
        flags = ["--listen", listen, "--runs", str(runs), "--key-file", str(key_file), *shown]
        service = Service("dashboard", listen, (*launcher("dashboard"), *flags))
        supervisor = Supervisor(logs)
        keeping = asyncio.create_task(supervisor.keep([service]))
        try:
            asked = asyncio.create_task(_asked_to_end())
            serving = asyncio.create_task(_served(listen))
            await asyncio.wait({keeping, asked, serving}, return_when=asyncio.FIRST_COMPLETED)
            if not keeping.done() and not asked.done():
                what = f"page of {run}" if run is not None else f"page of the runs in {runs}"
                words = f"{what}: http://{listen}/?key={key}  (Ctrl-C ends it)"
                console.print(words, markup=False, highlight=False, soft_wrap=True)
                await asyncio.wait({keeping, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await supervisor.stop()
            for task in (asked, serving):
                task.cancel()
            await asyncio.gather(asked, serving, return_exceptions=True)
        await keeping


def _under_way(folder: pathlib.Path) -> str:
    """Where the page of a run under way is."""
    address = json.loads((folder / ADDRESSES).read_text()).get("dashboard", "")
    scheme = "http" if certificates_of(folder) is None else "https"
    return f"the run is under way; its page: {scheme}://{address}/?key={page_key_of(folder)}"


async def _asked_to_end() -> None:
    """Until SIGINT or SIGTERM."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, asked.set)
    await asked.wait()


async def _served(address: str) -> None:
    """Until somebody listens there."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(0.02)  # nobody announces a port
        else:
            writer.close()
            return
