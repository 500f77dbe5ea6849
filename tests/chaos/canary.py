"""A run whose versions are tried, with one planted fault: `python -m tests.chaos.canary FOLDER FAULT` prints what came.

    scores   version 1 scores tokens otherwise than the learner: rejected, and the run goes on
    long     version 1 loses its reward: rejected, and the run pauses until somebody resumes it
    dies     the engine that has version 1 on trial is killed: another takes its place
    restart  coordinator, learner and weight_sync are killed while version 1 is on trial

Engines are fakes that plant the first three (`fake_engine.py`); everything else is real. It says what was decided of
each version and why, by which versions trained tokens were drawn, how long after the rejection every engine was back,
and what `penstock verify` finds.
"""

import argparse
import asyncio
import datetime
import json
import os
import pathlib
import random
import signal
import sys
import time
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

STEPS = 5
KILLED = ("coordinator", "learner", "weight_sync")


def recipe(folder: pathlib.Path, fault: str) -> dict[str, Any]:
    """Two engines, one of which is the canary. A fake's log-probs are a KL of 4 away from the learner's."""
    made = shape(random.Random(0), assets(folder), fake=True)
    rows = str(folder / "rows.jsonl")
    made["data"], made["environment"] = {"train": rows, "eval": rows}, {"name": "length"}
    made["algorithm"] = {"name": "grpo", "steps": STEPS, "groups_per_step": 4, "group_size": 2}
    made["staleness"], made["evaluation"] = {"max_versions": 2}, {"tasks": 16, "every": 0}
    made["learner"]["ranks"], made["generation"]["replicas"], made["rollout"]["workers"] = 1, 2, 1
    made["learner"]["checkpoints"], made["limits"] = {"every": 1}, {"keep_log": True}
    on_reject = "pause" if fault == "long" else "continue"
    canary = {"samples": 16, "mismatch_kl": 10, "reward_drop": 0.3, "seconds": 60, "on_reject": on_reject}
    made["weight_sync"] = {"canary": canary}
    return made


def said(run: Disturbed, words: str) -> None:
    """Waits until the coordinator says it."""
    log, end = run.run / "logs" / "coordinator.log", time.monotonic() + STALLED_SECONDS
    while not (log.exists() and words in log.read_text(errors="replace")):
        if time.monotonic() > end or run.over:
            raise Broken(f"the coordinator never said {words!r}")
        time.sleep(0.05)


def back(run: Disturbed) -> float:
    """Seconds between the rejection of version 1 and the next version that each engine with it served, the longest."""
    said = next(line for line in lines(run, "coordinator") if "version 1: REJECT" in line["message"])
    rejected = datetime.datetime.fromisoformat(said["at"])
    end = time.monotonic() + 30
    while time.monotonic() < end:
        after = list[float | None]()
        for engine in ("generation-0", "generation-1"):
            served = [line for line in lines(run, engine) if line["message"].endswith("is served")]
            steps = [line["message"] for line in served]
            if "version 1 is served" in steps:
                next_ = steps.index("version 1 is served") + 1
                at = datetime.datetime.fromisoformat(served[next_]["at"]) if next_ < len(served) else None
                after.append(None if at is None else (at - rejected).total_seconds())
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


def main(folder: pathlib.Path, fault: str) -> dict[str, Any]:
    os.environ["PENSTOCK_FAKE_FAULT"] = f"{fault}@1"
    os.environ["PENSTOCK_FAKE_DIED"] = str(folder / "died")
    os.environ["PENSTOCK_FAKE_SECONDS_A_TOKEN"] = "0.05"  # a trial takes some seconds
    found: dict[str, Any] = {}
    made = recipe(folder, fault)
    with running(folder, made, first_step=0) as run:
        said(run, "version 1 is tried")
        if fault == "restart":
            for role in KILLED:
                os.kill(run.processes(role)[-1], signal.SIGKILL)
        if fault == "long":
            said(run, "version 1: REJECT")
            found["back"] = back(run)
            found["paused"] = run.told("status", RUN)
            run.told("resume", RUN)
        run.finish()
    return found | asyncio.run(told(run.run)) | {"died": (folder / "died").exists(), "steps": run.step}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("fault", choices=["scores", "long", "dies", "restart"])
    args = parser.parse_args()
    print(json.dumps(main(args.folder.absolute(), args.fault)))  # noqa: T201 - its answer
    sys.exit(0)
