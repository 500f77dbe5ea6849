"""A run is resumed by the recipe it has, or by one that computes the same on other ranks."""

import pathlib
from typing import Any

import pytest

from penstock.cli.run_directory import RunRefused, held
from penstock.recipes import resolve


@pytest.fixture
def raw(tmp_path: pathlib.Path) -> dict[str, Any]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "train.jsonl").write_text("{}\n")
    return {
        "run": "r",
        "model": {"path": str(tmp_path / "model")},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 3},
    }


def test_the_layout_may_change(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    with held(tmp_path / "runs", resolve(raw)) as folder:
        pass
    other = ["learner.ranks=4", "learner.parallel.tensor=2", "learner.parallel.pipeline=2", "learner.recompute=full"]
    with held(tmp_path / "runs", resolve(raw, other)) as again:
        assert again == folder
        assert "tensor: 2" in (folder / "recipe.yaml").read_text()


def test_what_is_computed_may_not(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    with held(tmp_path / "runs", resolve(raw)):
        pass
    changed = resolve(raw, ["learner.ranks=2", "learner.optimizer.learning_rate=0.1"])
    with (
        pytest.raises(RunRefused, match=r"different: learner.optimizer.learning_rate\)"),
        held(tmp_path / "runs", changed),
    ):
        pass


def test_one_process_at_a_time(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    with (
        held(tmp_path / "runs", resolve(raw)),
        pytest.raises(RunRefused, match="in use"),
        held(tmp_path / "runs", resolve(raw)),
    ):
        pass
