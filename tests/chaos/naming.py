"""Is what a run waits for named? `python -m tests.chaos.naming FOLDER` stops each service in turn and asks `explain`;
then parts some, where this may have a network of its own, lets another team's reward answer nothing, and the log of
samples take nothing.

Prints by case how many seconds it took until `penstock explain` named it, and how long one such command takes on this
machine, as JSON; what was not named within PATIENCE has none.
"""

import argparse
import asyncio
import json
import os
import pathlib
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from penstock.bus import RunNames
from penstock.cli.streams import streams_of
from tests.chaos.faults import unreachable
from tests.chaos.one_run import DISK, RUN, Disturbed, isolate
from tests.chaos.reward import Theirs
from tests.chaos.shapes import ENDLESS, assets, shape

PATIENCE = 60.0
PARTED = ("generation-0", "environment-0", "weight_sync")
ROLES = ("coordinator", "rollout-0", "generation-0", "environment-0", "weight_sync", "learner", "nats")
SILENT, FULL = "a reward that answers nothing", "a log that is full"
CASES = (*ROLES, SILENT, FULL)


def recipe(folder: pathlib.Path, theirs: str) -> dict[str, object]:
    """A run of one process of every kind that never ends, scored by another team at `theirs` too."""
    made = shape(random.Random(0), assets(folder), fake=True)
    rows = str(folder / "rows.jsonl")
    rewards = [{"name": "length"}, {"name": "theirs", "address": theirs}]
    made["data"], made["environment"] = {"train": rows, "eval": rows}, {"name": "length", "rewards": rewards}
    made["algorithm"] = {"name": "grpo", "steps": ENDLESS, "groups_per_step": 4, "group_size": 2}
    made["learner"]["ranks"] = made["generation"]["replicas"] = made["rollout"]["workers"] = 1
    return made


def main(folder: pathlib.Path) -> dict[str, float | None]:
    (folder / DISK).mkdir(parents=True)
    isolated = isolate(folder / DISK)
    os.environ["PENSTOCK_LAUNCH_GENERATION"] = os.environ["PENSTOCK_CHAOS_FAKE_ENGINE"]
    theirs, found = Theirs(), dict[str, float | None]()
    run = Disturbed(folder, recipe(folder / "assets", theirs.address))
    try:
        run.until_step(2)
        began = time.monotonic()
        run.told("explain", RUN)
        found["a command"] = time.monotonic() - began
        for role in ROLES:
            stopped = run.processes(role)
            try:
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)
                found[role] = _named(run, *_words(run, role))
            finally:
                for pid in stopped:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
            run.until_step(run.step + 2)
        for role in PARTED if isolated else ():
            with unreachable(run.port(role)):
                found[f"{role}, parted"] = _named(run, *_words(run, role))
            run.until_step(run.step + 2)
        with theirs.silent():
            found[SILENT] = _named(run, f"(on reward {theirs.address}")
        run.until_step(run.step + 2)
        with _full(run):
            found[FULL] = _named(run, "waits for room for", "the log of samples is")
        run.until_step(run.step + 2)
        run.stop()
    finally:
        with suppress(ProcessLookupError):
            run.process.kill()
        run.process.wait()
    return found


def _words(run: Disturbed, role: str) -> tuple[str, ...]:
    """A role's name, or its address, as reason."""
    reward = f"(on reward 127.0.0.1:{run.port(role)}"
    return f"{role} does not answer", f"the {role} of", f"(on {role}", reward


@contextmanager
def _full(run: Disturbed) -> Iterator[None]:
    """The log of samples takes nothing more for the block."""
    before = asyncio.run(_log_takes(run, 1))
    try:
        yield
    finally:
        asyncio.run(_log_takes(run, before))


async def _log_takes(run: Disturbed, size: int) -> int:
    """The bytes that the log took at most until now, which is `size`."""
    async with streams_of(run.run) as bus:
        held = (await bus.js.stream_info(RunNames(RUN).log)).config
        before, held.max_bytes = held.max_bytes, size
        await bus.js.update_stream(held)
    assert before is not None
    return before


def _named(run: Disturbed, *words: str) -> float | None:
    """Seconds until one of the words was said."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        asked = time.monotonic() - began
        said = " ".join(run.told("explain", RUN).split())
        if any(each in said for each in words):
            return asked
    print(f"not {words}: {said}", file=sys.stderr)  # noqa: T201 - for whoever reads why
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    print(json.dumps(main(parser.parse_args().folder.absolute())))  # noqa: T201 - its answer
    sys.exit(0)
