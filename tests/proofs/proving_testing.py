"""What a proof does: makes its model and its warm-up's data, warms up, trains, and says what was measured.

Every stage is a recipe of deploy/recipes, run by `penstock train` with every real service.
"""

import json
import pathlib
import subprocess

from penstock.tiny_model import make_assets, make_model
from tests.e2e.testing.runs import penstock, program, training

ROOT = pathlib.Path(__file__).parents[2]
RECIPES = ROOT / "deploy" / "recipes"
WITHIN = 1700.0
"""Seconds of one stage, on a busy machine."""


def demonstrated(folder: pathlib.Path, of: str) -> pathlib.Path:
    """A random model, and demonstrations with the rows to train on and to measure with, in `folder`; the model."""
    make_model(folder / "model", context=1024)
    subprocess.run([program("DEMONSTRATIONS"), of, str(folder)], check=True, timeout=WITHIN)
    return folder / "model"


def sorting(folder: pathlib.Path) -> pathlib.Path:
    """The quickstart's assets in `folder`; their model."""
    make_assets(folder)
    return folder / "model"


def packaged(folder: pathlib.Path, service: str, example: str) -> pathlib.Path:
    """A package of examples/, made for a service alone; the folder that it is in."""
    into = folder / "packages"
    added = penstock(folder, "env", "add", service, str(ROOT / "examples" / example), "--to", str(into), within=WITHIN)
    assert added.returncode == 0, added.stdout
    return into


def warmed_up(folder: pathlib.Path, recipe: str, model: pathlib.Path, *overrides: str) -> pathlib.Path:
    """The model that a recipe's supervised training has left."""
    return trained(folder / "warm-up", recipe, model, *overrides) / "export"


def trained(folder: pathlib.Path, recipe: str, model: pathlib.Path, *overrides: str) -> pathlib.Path:
    """The run of a recipe from a model."""
    folder.mkdir(exist_ok=True)
    with training(folder, RECIPES / f"{recipe}.yaml", "run=r", f"model.path={model}", *overrides) as run:
        assert run.end(WITHIN) == 0, run.report(f"{recipe} failed")
        assert run.summary()["status"] == "done", run.report(f"{recipe} failed")
        return run.run


def learned(run: pathlib.Path, by: float) -> None:
    """Says what was measured on held-out tasks, which must be better by so much in the end."""
    lines = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    told = " -> ".join(f"{line['reward']:.3f} at step {line['step']}" for line in lines)
    print(f"held-out: {told}")  # noqa: T201 - what the proof is for
    assert len(lines) >= 3 and lines[-1]["reward"] > lines[0]["reward"] + by, told
