"""Runs the quickstart's recipes for benchmarks: through `penstock train`, with every real service, in a child process.

The warm start (random model, supervised warm-up) is made once below runs/bench and shared by all benchmarks.
"""

import dataclasses
import datetime
import json
import pathlib
import shutil
import subprocess
import sys
import time

from penstock.tiny_model import make_assets

RECIPES = pathlib.Path(__file__).parents[2] / "deploy" / "recipes"
RUNS = pathlib.Path("runs/bench")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a finished run left. `launched`: Unix time of the command; `engine`: when generation could draw a token."""

    folder: pathlib.Path
    steps: list[dict[str, float]]
    summary: dict[str, object]
    launched: float
    engine: float


def warm_start(given: pathlib.Path | None) -> tuple[pathlib.Path, pathlib.Path]:
    """(model directory, assets directory) to start GRPO from; made here unless `given` is a folder of runs that has
    them, as `./bazelw run //:quickstart` leaves it."""
    if given is not None:
        return given / "quickstart-sft" / "export", given / "quickstart-assets"
    assets = RUNS / "quickstart-assets"
    if not (assets / "eval.jsonl").is_file():
        make_assets(assets)
    if not (RUNS / "quickstart-sft" / "export").is_dir():
        train(
            "quickstart-sft", "quickstart-sft", f"model.path={assets / 'model'}", f"data.train={assets / 'sft.jsonl'}"
        )
    return RUNS / "quickstart-sft" / "export", assets


def grpo(name: str, model: pathlib.Path, assets: pathlib.Path, *overrides: str) -> Run:
    """The quickstart's GRPO stage as run `name`, without evaluations: what is timed is training."""
    paths = (f"model.path={model}", f"data.train={assets / 'train.jsonl'}", "data.eval=null")
    return train("quickstart-grpo", name, *paths, *overrides)


def train(recipe: str, name: str, *overrides: str) -> Run:
    """Runs a recipe to its end. Raises RuntimeError with the command's last words if it fails."""
    folder = RUNS / name
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "penstock.cli", "train", str(RECIPES / f"{recipe}.yaml"), "--runs", str(RUNS)]
    launched = time.time()
    done = subprocess.run([*command, f"run={name}", *overrides], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Run(
        folder, steps, json.loads((folder / "summary.json").read_text()), launched, _engine_started(folder, launched)
    )


def _engine_started(folder: pathlib.Path, launched: float) -> float:
    path = folder / "logs" / "generation-0.log"
    for line in path.read_text().splitlines() if path.exists() else []:
        if '"engine started' in line:
            return datetime.datetime.fromisoformat(json.loads(line)["at"]).timestamp()
    return launched
