"""Disturbs run after run until so many faults are done, and reports what held.

    ./bazelw run //tests/chaos:soak -- --kills 1000 --seed 1

Every run has a shape of its own by its seed, so a finding is repeated with `--seed N --runs 1` (as far as chance in the
processes allows). Most have fake engines; every tenth has vLLM. The last report is in docs/guarantees.md.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import tempfile
import time
from collections import Counter
from typing import Any

from tests.chaos.fake_engine import END
from tests.chaos.lengths import CRITICAL, distance, law
from tests.chaos.shapes import MAX_TOKENS

REAL_EVERY = 10


def one(seed: int, faults: int, keep: pathlib.Path) -> dict[str, Any]:
    """One run in a process of its own, from its seed."""
    engine = "real" if seed % REAL_EVERY == REAL_EVERY - 1 else "fake"
    program = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_CHAOS_ONE_RUN"])
    with tempfile.TemporaryDirectory(prefix="penstock-chaos-") as folder:
        command = [program, str(pathlib.Path(folder, "run")), str(seed), str(faults), "--engine", engine]
        command += ["--keep", str((keep / str(seed)).absolute())]
        done = subprocess.run(command, capture_output=True, text=True)
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        found = {"seed": seed, "shape": "-", "faults": {}, "problems": [done.stderr[-2000:]], "lengths": {}}
    return {**found, "engine": engine}


class Tally:
    """What all runs came to."""

    def __init__(self) -> None:
        self.faults, self.lengths = Counter[str](), Counter[int]()
        self.runs, self.steps, self.trained, self.replayed = 0, 0, 0, 0
        self.problems: list[str] = []

    def add(self, found: dict[str, Any]) -> None:
        """One run's."""
        self.runs += 1
        self.faults.update(found["faults"])
        self.lengths.update({int(length): count for length, count in found["lengths"].items()})
        self.steps += found.get("steps", 0)
        self.trained += found.get("trained", 0)
        self.replayed += found.get("replayed", 0)
        self.problems += [f"seed {found['seed']} ({found['shape']}): {each}" for each in found["problems"]]

    def report(self) -> str:
        """For people, in Markdown."""
        lines = [
            f"{self.faults.total()} faults in {self.runs} runs: {self.steps} steps, {self.trained} samples trained, "
            f"{len(self.problems)} promises broken; {self.replayed} runs were replayed undisturbed to the same "
            "weights.",
            "",
            "| fault | times |",
            "|---|---|",
            *(f"| {name} | {count} |" for name, count in sorted(self.faults.items())),
            "",
        ]
        if self.lengths:
            said = distance(self.lengths, law(END, MAX_TOKENS))
            verdict = "as drawn" if said < CRITICAL else "NOT as drawn"
            lines.append(
                f"Lengths of {self.lengths.total()} trained completions: {verdict} (Kolmogorov-Smirnov {said:.2f}, "
                f"critical {CRITICAL})."
            )
        return "\n".join([*lines, *self.problems])


def main(args: argparse.Namespace) -> int:
    args.keep.mkdir(parents=True, exist_ok=True)
    tally, seed, began = Tally(), args.seed, time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        waiting: set[concurrent.futures.Future[dict[str, Any]]] = set()
        while tally.faults.total() < args.kills and (args.runs is None or tally.runs < args.runs):
            while len(waiting) < args.jobs:
                waiting.add(pool.submit(one, seed, args.faults, args.keep))
                seed += 1
            done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
            for each in done:
                found = each.result()
                tally.add(found)
                total = f"{tally.faults.total()} faults, {(time.monotonic() - began) / 60:.0f} min"
                words = "; ".join(found["problems"]) or "held"
                print(f"{total}: seed {found['seed']}, {found['shape']}, {found['engine']}: {words}", flush=True)  # noqa: T201
        for each in waiting:
            tally.add(each.result())
    print(tally.report())  # noqa: T201
    return 1 if tally.problems else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="faults in all, of every kind")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further run has the next")
    parser.add_argument("--runs", type=int, help="at most so many")
    parser.add_argument("--faults", type=int, default=40, help="of one run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--keep", type=pathlib.Path, default=pathlib.Path("runs/chaos"), help="what broke stays here")
    raise SystemExit(main(parser.parse_args()))
