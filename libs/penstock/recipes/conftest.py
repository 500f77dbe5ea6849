"""A recipe that can be run, as a mapping."""

import pathlib
from typing import Any

import pytest


@pytest.fixture
def raw(tmp_path: pathlib.Path) -> dict[str, Any]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "train.jsonl").write_text("{}\n")
    return {
        "run": "r1",
        "model": {"path": str(tmp_path / "model")},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 3},
    }
