"""A run whose versions are tried, with planted faults: `python -m tests.chaos.canary FOLDER KIND` prints what came.

    goes-on  the first that is tried scores tokens otherwise than the learner: rejected, and the run goes on; the engine
             that has the next one on trial is killed: another takes its place; coordinator, learner and weight_sync
             are killed during the trial after that
    pauses   the first that is tried loses its reward: rejected, and the run pauses until somebody resumes it

Which version is tried first hangs on how long the evaluation of version 0 holds engines back: of those committed
meanwhile it is the newest.

Engines are fakes that plant faults (`fake_engine.py`); everything else is real. It says which versions were tried, in
their order, what was decided of each and why, by which versions trained tokens were drawn, how long after the rejection
every engine was back, and what `penstock verify` finds.
"""

import argparse
import asyncio
import datetime
import json
import os
import pathlib
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from penstock.audit import read_run
from penstock.bus import RunNames, load_payload, read
from penstock.cli.streams import streams_of
from penstock.ledger import Fate
from penstock.trajectories import contexts, decode
from penstock.weights.v1.weights_pb2 import Decision
from tests.chaos.elastic import running
from tests.chaos.one_run import RUN, STALLED_SECONDS, Broken, Disturbed
from tests.chaos.shapes import assets, shape

STEPS, SAMPLES = 7, 48
KILLED = ("coordinator", "learner", "weight_sync")


FAULTS = {"goes-on": "scores dies", "pauses": "long"}


def recipe(folder: pathlib.Path, kind: str) -> dict[str, Any]:
    """Two engines, one of which is the canary. A fake's log-probs are a KL of 4 away from the learner's."""
    made = shape(random.Random(0), assets(folder), fake=True)
    rows = str(folder / "rows.jsonl")
    made["data"], made["environment"] = {"train": rows, "eval": rows}, {"name": "length"}
    made["algorithm"] = {"name": "grpo", "steps": STEPS, "groups_per_step": 4, "group_size": 2}
    made["staleness"], made["evaluation"] = {"max_versions": 2}, {"tasks": SAMPLES, "every": 0}
    made["learner"]["ranks"], made["generation"]["replicas"], made["rollout"]["workers"] = 1, 2, 1
    made["learner"]["checkpoints"], made["limits"] = {"every": 1}, {"keep_log": True}
    on_reject = "pause" if kind == "pauses" else "continue"
    canary = {"samples": SAMPLES, "mismatch_kl": 10, "reward_drop": 0.3, "seconds": 60, "on_reject": on_reject}
    made["weight_sync"] = {"canary": canary}
    return made


def tried(run: Disturbed) -> list[str]:
    """The versions whose trials have begun, in their order."""
    log = run.run / "logs" / "coordinator.log"
    found = re.findall(r"version (\d+) is tried", log.read_text(errors="replace") if log.exists() else "")
    return list(dict.fromkeys(found))


def until(run: Disturbed, what: str, holds: Callable[[], bool]) -> None:
    """Waits until it holds."""
    end = time.monotonic() + STALLED_SECONDS
    while not holds():
        if time.monotonic() > end or run.over:
            raise Broken(f"never: {what}; {run.told('explain', RUN)}")
        time.sleep(0.05)


def rejected(run: Disturbed, version: str) -> datetime.datetime | None:
    """When a version was."""
    said = [each["at"] for each in lines(run, "coordinator") if f"version {version}: REJECT" in each["message"]]
    return datetime.datetime.fromisoformat(said[0]) if said else None


def back(run: Disturbed, version: str) -> float:
    """Seconds between the rejection of a version and the next one that each engine with it served, the longest."""
    began = rejected(run, version)
    assert began is not None
    taken = f"version {version} is served"
    end = time.monotonic() + 30
    while time.monotonic() < end:
        after = list[float | None]()
        for engine in ("generation-0", "generation-1"):
            served = [line for line in lines(run, engine) if line["message"].endswith("is served")]
            steps = [line["message"] for line in served]
            if taken in steps:
                next_ = steps.index(taken) + 1
                at = datetime.datetime.fromisoformat(served[next_]["at"]) if next_ < len(served) else None
                after.append(None if at is None else (at - began).total_seconds())
        left = [seconds for seconds in after if seconds is not None]
        if left and len(left) == len(after):
            return max(left)
        time.sleep(0.05)
    raise Broken("an engine never went back")


def lines(run: Disturbed, service: str) -> list[dict[str, str]]:
    """What a service wrote into its log."""
    written = (run.run / "logs" / f"{service}.log").read_text().splitlines()
    return [json.loads(line) for line in written if line.startswith("{") and line.endswith("}")]


async def told(run: pathlib.Path) -> dict[str, Any]:
    """What the streams say of a run that is over."""
    names, drawn = RunNames(RUN), set[int]()
    async with streams_of(run) as bus:
        audit, verdict = await read_run(bus, names, 2)
        async for entry in read(bus, names.log, live=False):
            t = decode(await load_payload(bus, names, entry.payload))
            group = audit.ledger.groups.get(t.group)
            if group is not None and group.fate is Fate.TRAINED:
                drawn |= {s.version.step for c in contexts(t) for s in c.version_segments}
    decisions = {step: (Decision.Name(d.decision), d.reason) for step, d in audit.ledger.decisions.items()}
    numbers = {step: dict(d.metrics) for step, d in audit.ledger.decisions.items()}
    return {"decisions": decisions, "numbers": numbers, "drawn": sorted(drawn), "findings": verdict.findings}


def main(folder: pathlib.Path, kind: str) -> dict[str, Any]:
    taken = folder / "taken"
    taken.mkdir(parents=True)
    os.environ["PENSTOCK_FAKE_FAULTS"], os.environ["PENSTOCK_FAKE_TAKEN"] = FAULTS[kind], str(taken)
    os.environ["PENSTOCK_FAKE_SECONDS_A_TOKEN"] = "0.05"  # a trial takes some seconds
    found: dict[str, Any] = {}
    with running(folder, recipe(folder, kind), first_step=0) as run:
        if kind == "goes-on":
            until(run, "a third trial", lambda: len(tried(run)) == 3)
            for role in KILLED:
                os.kill(run.processes(role)[-1], signal.SIGKILL)
        else:
            until(run, "a rejection", lambda: bool(tried(run)) and rejected(run, tried(run)[0]) is not None)
            found["back"] = back(run, tried(run)[0])
            found["paused"] = run.told("status", RUN)
            run.told("resume", RUN)
        run.finish()
        found["tried"] = tried(run)
    return found | asyncio.run(told(run.run)) | {"died": (taken / "died").exists(), "steps": run.step}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("kind", choices=[*FAULTS])
    args = parser.parse_args()
    print(json.dumps(main(args.folder.absolute(), args.kind)))  # noqa: T201 - its answer
    sys.exit(0)
