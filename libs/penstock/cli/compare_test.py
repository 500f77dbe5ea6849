"""Runs beside each other, from files alone."""

import json
import pathlib
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.cli.main import app


@pytest.fixture
def runs(tmp_path: pathlib.Path) -> pathlib.Path:
    for name, rate in (("a", 1e-3), ("b", 2e-3)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(f"run: {name}\nlearner: {{optimizer: {{learning_rate: {rate}}}}}\n")
        rows = [{"step": i + 1, "rl.reward.mean": rate * i, "time": 1.0} for i in range(5)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 6, "rl')
        summary = {"eval": [{"reward": 0.0}, {"reward": 0.5, "pass@1": 0.25}], "wall_seconds": 12.5}
        (folder / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def penstock(runs: pathlib.Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*words, "--runs", str(runs)])
    return done.exit_code, done.output


def test_settings_that_differ_and_final_numbers_are_compared(runs: pathlib.Path) -> None:
    code, output = penstock(runs, "compare", "a", "b", "--json")
    told: dict[str, Any] = json.loads(output)
    assert code == 0 and told["runs"] == ["a", "b"]
    assert told["settings"] == {"learner.optimizer.learning_rate": [1e-3, 2e-3]}
    assert told["numbers"]["rl.reward.mean"] == [pytest.approx(4e-3), pytest.approx(8e-3)]
    assert told["numbers"]["eval.reward"] == [0.5, 0.5] and told["numbers"]["steps"] == [5.0, 5.0]
    code, output = penstock(runs, "compare", "a", "b")
    assert code == 0 and "learning_rate" in output and "eval.pass@1" in output


def test_curves_are_drawn_on_the_terminal_and_into_files(runs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    code, output = penstock(runs, "plot", "a", "b")
    assert code == 0 and "rl.reward.mean" in output and "a" in output
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        path = tmp_path / f"curves{suffix}"
        assert penstock(runs, "plot", "a", "b", "--output", str(path))[0] == 0
        assert path.read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plot", "c"], "no run 'c'"),
        (["compare", "a", "c"], "no run 'c'"),
        (["plot", "a", "--metric", "rl.reward.men"], "did you mean rl.reward.mean"),
        (["plot", "a", "--output", "x.bmp"], "ends with none of .png, .svg, .pdf"),
        (["plot", "a", "--output", "/nowhere/x.png"], "cannot be written"),
        (["compare", *"abababababa"], "too many to tell apart"),
    ],
)
def test_what_cannot_be_shown_is_said(runs: pathlib.Path, words: list[str], said: str) -> None:
    code, output = penstock(runs, *words)
    assert code == 2 and said in " ".join(output.split())
