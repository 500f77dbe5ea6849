"""What is not there is named."""

import pathlib
from typing import Any

import pytest
import yaml

from penstock.recipes import RecipeError, load
from penstock.recipes.refusals_testing import problems


def test_missing_files_are_named(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    assert "data.eval: no file './nowhere.jsonl'" in problems(raw, "data.eval=./nowhere.jsonl")
    (tmp_path / "model" / "config.json").unlink()
    assert "is not a Hugging Face model directory" in problems(raw)


def test_a_service_that_reads_no_rows_needs_no_file_of_them(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw | {"data": {"train": "./nowhere.jsonl"}}))
    with pytest.raises(RecipeError, match="data.train: no file"):
        load(tmp_path / "recipe.yaml")
    assert load(tmp_path / "recipe.yaml", rows=False).data.train == "./nowhere.jsonl"
