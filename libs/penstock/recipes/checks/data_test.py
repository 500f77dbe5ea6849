"""What is not there is named."""

import pathlib
from typing import Any

from penstock.recipes.refusals_testing import problems


def test_missing_files_are_named(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    assert "data.eval: no file './nowhere.jsonl'" in problems(raw, "data.eval=./nowhere.jsonl")
    (tmp_path / "model" / "config.json").unlink()
    assert "is not a Hugging Face model directory" in problems(raw)
