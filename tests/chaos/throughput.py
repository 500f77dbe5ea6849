"""What engines that are added during a run are worth: `python -m tests.chaos.throughput FOLDER` prints it as JSON.

A run whose only bound is its engines: fakes of SECONDS a token that draw RUNNING completions at once. It has one,
then four, then one; throughput is counted in samples that came to the log while so many were READY. Of each new one it
says how long after READY its first sample ended, which is later than its first token.
"""

import argparse
import asyncio
import json
import os
import pathlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from penstock.bus import RunNames, load_payload, read
from penstock.cli.streams import streams_of
from penstock.membership import watching
from penstock.trajectories import decode
from tests.chaos.elastic import recipe, running
from tests.chaos.one_run import RUN, Disturbed

SECONDS, RUNNING, MANY = 0.02, 2, 4
WINDOW = 30.0
"""Seconds of each phase that are counted."""


async def ends_of(folder: pathlib.Path) -> list[tuple[float, str]]:
    """When each sample of the log ended, and where."""
    names = RunNames(RUN)
    async with streams_of(folder) as bus:
        found = [
            decode(await load_payload(bus, names, entry.payload)) async for entry in read(bus, names.log, live=False)
        ]
    return [(sample.ended_at.ToNanoseconds() / 1e9, sample.engine) for sample in found]


async def ready_times(folder: pathlib.Path, count: int) -> dict[str, float]:
    """When each engine was first seen READY, by its address, once there are so many."""
    found: dict[str, float] = {}
    async with streams_of(folder) as bus, watching(bus, RunNames(RUN)) as watcher:
        while True:
            seen = watcher.changes
            ready = [member.address for member in watcher.view.ready("generation")]
            found |= {address: time.time() for address in ready if address not in found}
            if len(ready) >= count:
                return found
            await watcher.changed(seen)


def phase(run: Disturbed, *words: str) -> tuple[float, float]:
    """Scales, where there are words, and lets the run go on; the stretch that is counted."""
    if words:
        run.told("scale", RUN, *words)
    begin = time.time()
    time.sleep(WINDOW)  # it is time that is measured
    return begin, time.time()


def main(folder: pathlib.Path) -> dict[str, Any]:
    os.environ["PENSTOCK_FAKE_SECONDS_A_TOKEN"] = str(SECONDS)
    made = recipe(folder / "assets")
    made["generation"]["max_running"] = RUNNING
    made["staleness"] = {"max_versions": 8}
    made["algorithm"] |= {"groups_per_step": 32, "group_size": 2}
    with running(folder, made) as run:
        phases = [phase(run)]
        with ThreadPoolExecutor() as beside:
            watched = beside.submit(asyncio.run, ready_times(run.run, MANY))
            phases.append(phase(run, f"generation={MANY}"))
            ready = watched.result()
        phases.append(phase(run, "generation=1"))
    ends = asyncio.run(ends_of(run.run))
    rates = [sum(begin <= at < end for at, _ in ends) / (end - begin) for begin, end in phases]
    firsts = {engine: min(at for at, where in ends if where == engine) for engine in ready}
    waits = sorted(round(first - ready[engine], 2) for engine, first in firsts.items() if first > ready[engine])
    return {
        "seconds from READY to a first sample": waits,
        "samples a second": [round(rate, 2) for rate in rates],
        "four engines / one": round(rates[1] / (0.5 * (rates[0] + rates[2])), 2),
        "verify": run.told("verify", RUN),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    print(json.dumps(main(parser.parse_args().folder.absolute())))  # noqa: T201 - its answer
    sys.exit(0)
