"""One pretrained chat model through everything: SFT, GRPO, DPO, a tool, a judge, and a step beside TRL's.

    ./bazelw run //tests/real:smollm2                     # all of it: half an hour on 2 cores
    ./bazelw run //tests/real:smollm2 -- --only grpo tool

Every part is a recipe through `penstock train`, with the model's own template and vocabulary. The table says what
improved on held-out rows, how far engine and learner disagree at the first step, seconds a step, and the learner's
memory beside the planner's word. The last result is in docs/benchmarks.md.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import yaml

from penstock.memory_plan import GIB
from penstock.recipes import resolve
from penstock.recipes.needs import Needs
from tests.bench.report import Report
from tests.real import sums

FOLDER = pathlib.Path("runs/real")
MODEL, DATA = FOLDER / "smollm2", FOLDER / "sums"


def recipes() -> dict[str, dict[str, Any]]:
    """By part: the recipe without what all share."""
    math = {"name": "math", "rewards": [{"name": "math"}]}
    judge = {
        "path": str(MODEL),
        "prompt": "{prompt}\nSomebody answered: {completion}\nIs this right? Say 'Score: 0' or 'Score: 10'.",
        "max_tokens": 16,
        "max_context": 512,
        "unread": 0.0,
    }
    drawn = {"generation": {"max_context": 192, "max_running": 64}, "sampling": {"max_tokens": 24}}
    grpo = {
        "data": _data("questions"),
        "environment": math,
        "algorithm": {"name": "grpo", "steps": 8, "groups_per_step": 8, "group_size": 8},
        "staleness": {"max_versions": 1},
        "evaluation": {"every": 8, "tasks": 96},
        **drawn,
    }
    return {
        "sft": {
            "data": _data("conversations"),
            "algorithm": {"name": "sft", "steps": 8, "groups_per_step": 32, "group_size": 1},
            "evaluation": {"every": 8},
        },
        "grpo": grpo,
        "dpo": {
            "data": _data("pairs"),
            "algorithm": {
                "name": "dpo",
                "steps": 6,
                "groups_per_step": 16,
                "group_size": 2,
                "preference": {"source": "dataset"},
            },
            "evaluation": {"every": 6},
        },
        "tool": {
            "data": _data("tool"),
            "environment": {"name": "calculator", "multi_turn": True, "max_turns": 4},
            "algorithm": {"name": "grpo", "steps": 2, "groups_per_step": 4, "group_size": 4},
            "evaluation": {"tasks": 8},
            "generation": {"max_context": 768, "max_running": 64},
            "sampling": {"max_tokens": 128, "stop": ["</tool_call>"]},
        },
        "judge": {
            **grpo,
            "environment": {"name": "good", "rewards": [{"name": "good", "timeout_seconds": 300, "judge": judge}]},
            "algorithm": {"name": "grpo", "steps": 2, "groups_per_step": 4, "group_size": 4},
            "evaluation": {"tasks": 8},
        },
    }


def _data(name: str) -> dict[str, str]:
    return {"train": str(DATA / f"{name}.jsonl"), "eval": str(DATA / f"{name}-eval.jsonl")}


def complete(part: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """With what all parts share."""
    learner = {"micro_batch_tokens": "auto", "optimizer": {"learning_rate": 5.0e-6, "warmup_steps": 0}}
    return {"run": f"smollm2-{part}", "model": {"path": str(MODEL)}, "learner": learner, **recipe}


class Watched:
    """The peak of the learner's resident memory while the block runs, read from /proc twice a second."""

    def __init__(self, run: str) -> None:
        self._run, self._over, self.peak = run, threading.Event(), 0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.peak = max([self.peak, *map(self._peak, pathlib.Path("/proc").glob("[0-9]*"))])

    def _peak(self, process: pathlib.Path) -> int:
        """VmHWM of a process that is a rank of this run's learner; 0 of others."""
        try:
            words = (process / "cmdline").read_bytes()
            if b"services.learner" not in words or f"{self._run}/recipe.yaml".encode() not in words:
                return 0
            status = (process / "status").read_text()
        except OSError:
            return 0  # it has ended
        return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def run(part: str, report: Report) -> None:
    """Trains one part and adds its row."""
    recipe = complete(part, recipes()[part])
    folder = FOLDER / f"smollm2-{part}"
    shutil.rmtree(folder, ignore_errors=True)
    file = FOLDER / f"{part}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    needs = Needs.of(resolve(recipe))
    assert needs is not None
    command = [sys.executable, "-m", "penstock.cli", "train", str(file), "--runs", str(FOLDER)]
    with Watched(f"smollm2-{part}") as watched:
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        report.add(part=part, improved=f"ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
        return  # the other parts' numbers are not lost for it
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluations = json.loads((folder / "summary.json").read_text()).get("eval", [])
    report.add(
        part=part,
        steps=len(steps),
        improved=_improved(steps, evaluations),
        mismatch_kl=steps[0].get("rl.policy.mismatch_kl"),
        seconds_a_step=statistics.median(b["time"] - a["time"] for a, b in zip(steps, steps[1:], strict=False)),
        learner_gib=watched.peak / GIB,
        planned_gib=needs.stages[0].total / GIB,
        micro_batch_tokens=resolve(recipe).learner.micro_batch_tokens,
    )


def _improved(steps: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> str:
    """First and last of what was measured: held out where there is an evaluation, else of the steps."""
    for name in ("reward", "rl.validation.loss", "rl.reward.mean"):
        rows = evaluations if name == "reward" else steps
        found = [row[name] for row in rows if isinstance(row.get(name), float)]
        if len(found) > 1:
            held_out = "held-out " if name == "reward" else ""
            return f"{held_out}{name} {found[0]:.3f} to {found[-1]:.3f}"
    return "-"


def beside_trl(report: Report) -> None:
    """Seconds of CPU (one thread each) and peak memory of a step on one batch, ours and TRL's in turn; where they leave
    the model must agree."""
    for dtype in ("float32", "bfloat16"):
        ours = _step("OUR", dtype)
        for rows in (8, 64):
            theirs = _step("TRL", dtype, "--rows", str(rows))
            if dtype == "float32" and abs(ours["logprob"] - theirs["logprob"]) > 2e-3:
                raise SystemExit(f"the steps differ: log-probabilities {ours['logprob']} and {theirs['logprob']}")
            report.add(
                part=f"step, {dtype}, TRL with {rows} rows at once",
                seconds_a_step=min(ours["seconds"]),
                trl_seconds=min(theirs["seconds"]),
                time_ratio=min(ours["seconds"]) / min(theirs["seconds"]),
                learner_gib=ours["peak"] / GIB,
                trl_gib=theirs["peak"] / GIB,
                memory_ratio=ours["peak"] / theirs["peak"],
            )


def _step(who: str, dtype: str, *more: str) -> dict[str, Any]:
    result = FOLDER / f"step-{who.lower()}.json"
    paths = [str(path.absolute()) for path in (MODEL, FOLDER / "batch.json", result)]
    _program(f"{who}_STEP", *paths, "--dtype", dtype, *more)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def _program(name: str, *arguments: str) -> None:
    path = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ[f"PENSTOCK_REAL_{name}"])
    done = subprocess.run([path, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr[-3000:]}")


def main(args: argparse.Namespace) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (MODEL / "config.json").is_file():
        _program("MAKE_MODEL", str(MODEL.absolute()))
    sums.write(DATA)
    report = Report("smollm2", vars(args))
    began = time.monotonic()
    for part in args.only:
        beside_trl(report) if part == "trl" else run(part, report)
    report.note(f"{(time.monotonic() - began) / 60:.0f} minutes in all")
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ["trl", *recipes()]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="parts to run")
    main(parser.parse_args())
