"""A run scaled up and down while it runs: `python -m tests.chaos.elastic FOLDER` prints what came of it, as JSON.

generation 1 → 4 → 1 and rollout 1 → 3 → 1, with fake engines, after a learner that was told to end, as a host that is
drained tells it: another one goes on. It says how many samples of the log each engine finished,
and what `penstock verify` says of the run.
"""

import argparse
import asyncio
import json
import os
import pathlib
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from penstock.bus import RunNames, load_payload, read
from penstock.cli.streams import streams_of
from penstock.trajectories import decode
from tests.chaos.one_run import DISK, RUN, Broken, Disturbed
from tests.chaos.shapes import ENDLESS, assets, shape

SHARED_STEPS = 30
"""Within so many steps each new engine has finished a sample."""


def recipe(folder: pathlib.Path) -> dict[str, Any]:
    """A run of one process of every kind that never ends."""
    made = shape(random.Random(0), assets(folder), fake=True)
    rows = str(folder / "rows.jsonl")
    made["data"], made["environment"] = {"train": rows, "eval": rows}, {"name": "length"}
    made["algorithm"] = {"name": "grpo", "steps": ENDLESS, "groups_per_step": 8, "group_size": 2}
    made["evaluation"] = {"tasks": 2, "every": 0}
    made["learner"]["ranks"] = made["generation"]["replicas"] = made["rollout"]["workers"] = 1
    made["limits"] = {"keep_log": True}
    return made


async def engines_of(folder: pathlib.Path) -> dict[str, int]:
    """How many samples of the log each engine finished, by its address."""
    found: dict[str, int] = {}
    names = RunNames(RUN)
    async with streams_of(folder) as bus:
        async for entry in read(bus, names.log, live=False):
            engine = decode(await load_payload(bus, names, entry.payload)).engine
            found[engine] = found.get(engine, 0) + 1
    return found


def until_shared(run: Disturbed, engines: int) -> None:
    """Waits until so many engines have finished samples: what the first steps train was drawn before there were more.
    Raises Broken."""
    for _ in range(SHARED_STEPS):
        run.until_step(run.step + 1)
        if len(asyncio.run(engines_of(run.run))) >= engines:
            return
    raise Broken(f"not {engines} engines have had a share of the work within {SHARED_STEPS} steps")


@contextmanager
def running(folder: pathlib.Path, made: dict[str, Any], first_step: int = 1) -> Iterator[Disturbed]:
    """A run with fake engines from its first step on; it is asked to stop behind the block, if it has not ended."""
    (folder / DISK).mkdir(parents=True)
    os.environ["PENSTOCK_LAUNCH_GENERATION"] = os.environ["PENSTOCK_CHAOS_FAKE_ENGINE"]
    run = Disturbed(folder, made)
    try:
        run.until_step(first_step)
        yield run
        if not run.over:
            run.stop()
    finally:
        with suppress(ProcessLookupError):
            run.process.kill()
        run.process.wait()


def main(folder: pathlib.Path) -> dict[str, Any]:
    with running(folder, recipe(folder / "assets")) as run:
        for pid in run.processes("learner"):
            os.kill(pid, signal.SIGTERM)
        run.until_step(run.step + 4)
        up = run.told("scale", RUN, "generation=4", "rollout=3")
        until_shared(run, 4)
        down = run.told("scale", RUN, "generation=1", "rollout=1")
        run.until_step(run.step + 2)
    engines = asyncio.run(engines_of(run.run))
    return {"up": up, "down": down, "engines": engines, "steps": run.step, "verify": run.told("verify", RUN)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    print(json.dumps(main(parser.parse_args().folder.absolute())))  # noqa: T201 - its answer
    sys.exit(0)
