"""Is a service that stands still named? `python -m tests.chaos.naming FOLDER` stops each in turn and asks `explain`;
and one that nobody reaches any more, where this may have a network of its own.

Prints by role how many seconds it took until `penstock explain` named it, and how long one such command takes on this
machine, as JSON; a role that was not named within PATIENCE has none.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import sys
import time
from contextlib import suppress

from tests.chaos.faults import unreachable
from tests.chaos.one_run import DISK, RUN, Disturbed, isolate
from tests.chaos.shapes import ENDLESS, assets, shape

PATIENCE = 60.0
PARTED = ("generation-0", "environment-0", "weight_sync")
ROLES = ("coordinator", "rollout-0", "generation-0", "environment-0", "weight_sync", "learner", "nats")


def recipe(folder: pathlib.Path) -> dict[str, object]:
    """A run of one process of every kind that never ends."""
    made = shape(random.Random(0), assets(folder), fake=True)
    rows = str(folder / "rows.jsonl")
    made["data"], made["environment"] = {"train": rows, "eval": rows}, {"name": "length"}
    made["algorithm"] = {"name": "grpo", "steps": ENDLESS, "groups_per_step": 4, "group_size": 2}
    made["learner"]["ranks"] = made["generation"]["replicas"] = made["rollout"]["workers"] = 1
    return made


def main(folder: pathlib.Path) -> dict[str, float | None]:
    (folder / DISK).mkdir(parents=True)
    isolated = isolate(folder / DISK)
    os.environ["PENSTOCK_LAUNCH_GENERATION"] = os.environ["PENSTOCK_CHAOS_FAKE_ENGINE"]
    run, found = Disturbed(folder, recipe(folder / "assets")), dict[str, float | None]()
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
                found[role] = _named(run, role)
            finally:
                for pid in stopped:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
            run.until_step(run.step + 2)
        for role in PARTED if isolated else ():
            with unreachable(run.port(role)):
                found[f"{role}, parted"] = _named(run, role)
            run.until_step(run.step + 2)
        run.stop()
    finally:
        with suppress(ProcessLookupError):
            run.process.kill()
        run.process.wait()
    return found


def _named(run: Disturbed, role: str) -> float | None:
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        asked = time.monotonic() - began
        said = " ".join(run.told("explain", RUN).split())
        if any(words in said for words in (f"{role} does not answer", f"the {role} of", f"(on {role}")):
            return asked
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    print(json.dumps(main(parser.parse_args().folder.absolute())))  # noqa: T201 - its answer
    sys.exit(0)
