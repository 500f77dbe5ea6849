"""`penstock scale`: another number of processes of a run, while it runs."""

import asyncio
import json
import pathlib
from collections.abc import Mapping
from typing import Annotated

import typer

from penstock.bus import Bucket, BusError, RunNames, connect
from penstock.cli.credentials import login_of
from penstock.cli.joining import FIRST
from penstock.cli.run_directory import ADDRESSES
from penstock.cli.streams import NATS
from penstock.cli.words import DEFAULT_RUNS, RunName, Runs, unknown_run
from penstock.membership import View, watching
from penstock.supervisor import counts_of
from penstock.system import exits
from penstock.terminal import console, failed, plain

REACH_SECONDS = 600.0


def scale(
    run: RunName,
    counts: Annotated[list[str], typer.Argument(metavar="KIND=COUNT...", help="as in generation=3 rollout=2")],
    place: Annotated[str, typer.Option(help="the host whose processes are meant: a place of `penstock join`")] = FIRST,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Keep another number of processes on a host of a run; returns when they are ready, and those that go are gone."""
    told = runs / run / ADDRESSES
    if not told.is_file():
        raise failed(unknown_run(run, runs))
    try:
        asyncio.run(_scale(runs / run, RunNames(run), counts_of(counts), place, json.loads(told.read_text())[NATS]))
    except (ValueError, OSError) as error:
        raise failed(str(error)) from error
    except (BusError, TimeoutError) as error:
        raise failed(f"not reached: {error}", exits.FAILED) from error


async def _scale(folder: pathlib.Path, names: RunNames, wanted: Mapping[str, int], place: str, nats: str) -> None:
    said = ""
    async with (
        connect(nats, name="penstock", login=login_of(folder)) as bus,
        watching(bus, names) as watcher,
        asyncio.timeout(REACH_SECONDS),
    ):
        words = " ".join(f"{kind}={count}" for kind, count in wanted.items())
        await Bucket(bus, names).put(names.wanted_key(place), words.encode())
        while True:
            seen = watcher.changes
            have = {kind: there(watcher.view, kind, place) for kind in wanted}
            line = ", ".join(f"{kind} {ready} of {wanted[kind]} ready" for kind, (ready, _) in have.items())
            if line != said:
                said = line
                console.print(plain(line))
            if all(have[kind] == (count, count) for kind, count in wanted.items()):
                return
            if watcher.over:
                raise ValueError(f"run {names.run!r} is over ({watcher.over})")
            await watcher.changed(seen)


def there(view: View, kind: str, place: str) -> tuple[int, int]:
    """How many of a kind are READY at a place, and how many are there at all."""
    start = kind if place == FIRST else f"{kind}-{place}"
    return tuple(  # type: ignore[return-value]
        sum(m.instance.rpartition("-")[0] == start for m in found) for found in (view.ready(kind), view.of(kind))
    )
