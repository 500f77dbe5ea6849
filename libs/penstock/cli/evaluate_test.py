"""Evaluations of several models are runs of their own, told apart by their models; nothing is started for bad input."""

import asyncio
import json
import pathlib
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.cli.commands import evaluate
from penstock.cli.commands.evaluate import LONGEST, Measurement, label, measurements
from penstock.cli.main import app
from penstock.cli.run_directory import RunRefused
from penstock.recipes import Recipe
from penstock.system import exits
from penstock.tiny_model import make_assets


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    assets = tmp_path_factory.mktemp("assets")
    make_assets(assets, demonstrations=1, prompts=4)
    path = assets / "recipe.yaml"
    settings = {
        "run": "mine",
        "model": {"path": str(assets / "model")},
        "data": {"train": str(assets / "train.jsonl"), "eval": str(assets / "eval.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 1},
    }
    path.write_text(json.dumps(settings))
    return path


def checkpoint(runs: pathlib.Path, run: str, step: int) -> pathlib.Path:
    path = runs / run / "checkpoints" / f"step-{step:06d}"
    path.mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    return path


def test_each_model_is_a_run_of_its_own(recipe: pathlib.Path, tmp_path: pathlib.Path) -> None:
    one, two = (checkpoint(tmp_path / "runs", "mine", step) for step in (20, 40))
    export, other = tmp_path / "runs" / "mine" / "export", tmp_path / "Qwen3 0.6B"
    found = measurements(recipe, [one, two, export, other, None], [])
    assert [each.run for each in found] == [
        "mine-eval-mine-step-000020",
        "mine-eval-mine-step-000040",
        "mine-eval-mine-export",
        "mine-eval-qwen3-0-6b",
        "mine-eval",
    ]


def test_a_name_that_is_given_is_the_run_of_one_and_the_beginning_of_several(recipe: pathlib.Path) -> None:
    a, b = pathlib.Path("a"), pathlib.Path("b")
    assert [each.run for each in measurements(recipe, [a], ["run=x"])] == ["x"]
    assert [each.run for each in measurements(recipe, [a, b], ["run=x"])] == ["x-a", "x-b"]


def test_models_that_would_share_a_run_are_refused(recipe: pathlib.Path) -> None:
    with pytest.raises(RunRefused, match="'mine-eval-a'"):
        measurements(recipe, [pathlib.Path("x/a"), pathlib.Path("y/a")], [])


def test_a_long_name_is_cut_to_what_a_run_may_be_called(recipe: pathlib.Path) -> None:
    (found,) = measurements(recipe, [pathlib.Path("m" * 100)], [])
    assert len(found.run) == LONGEST


def test_a_measurement_says_its_model_and_its_run_last() -> None:
    given = Measurement(pathlib.Path("a"), "x").overrides(["run=y", "evaluation.tasks=4"])
    assert given == ["model.path=a", "evaluation.tasks=4", "run=x", "mode=evaluate"]


def test_several_models_make_one_table(
    recipe: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def train(recipe: Recipe, runs: pathlib.Path, *_: Any) -> int:
        await asyncio.sleep(0)
        (runs / recipe.run).mkdir(parents=True)
        (runs / recipe.run / "recipe.yaml").write_text("run: x\n")
        reward = len(pathlib.Path(recipe.model.path).name) / 8
        told = {"status": "done", "eval": [{"step": 0, "version": 0, "reward": reward}]}
        (runs / recipe.run / "summary.json").write_text(json.dumps(told))
        return exits.DONE

    monkeypatch.setattr(evaluate, "train", train)
    models = [tmp_path / "a", tmp_path / "bb"]
    for model in models:
        model.symlink_to(recipe.parent / "model")
    runs = ["--runs", str(tmp_path / "runs")]
    given = ["eval", str(recipe), *runs, "--models", *(str(model) for model in models), "evaluation.tasks=4"]
    said = CliRunner().invoke(app, given).stdout
    rows = [line.translate({ord(each): " " for each in "│┃"}).split() for line in said.splitlines()]
    assert ["a", "bb"] in [row[-2:] for row in rows] and ["reward", "0.125", "0.25"] in rows


@pytest.mark.parametrize("given", [["--models"], ["--models", "a", "--model", "b"], ["--models", *"abcdefghi"]])
def test_models_that_make_no_sense_are_refused(recipe: pathlib.Path, given: list[str]) -> None:
    assert CliRunner().invoke(app, ["eval", str(recipe), *given]).exit_code == exits.BAD_INPUT


def test_a_model_is_called_by_its_folder() -> None:
    assert label(pathlib.Path("/models/Some_Model.v2/")) == "some_model-v2"
