"""A method whose package the engine's environment lacks is refused before anything is started."""

import pathlib
import sys
from typing import Any

import pytest

from penstock.cli.drafting import undraftable
from penstock.recipes import Recipe, resolve


@pytest.fixture
def recipe(tmp_path: pathlib.Path) -> Recipe:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "train.jsonl").write_text("{}\n")
    raw: dict[str, Any] = {
        "run": "r",
        "model": {"path": str(tmp_path / "model")},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 3},
        "generation": {"speculative": {"method": "suffix"}},
    }
    return resolve(raw)


def engine(monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path, script: str) -> None:
    """Generation's program is this script."""
    program = folder / "generation"
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(0o755)
    monkeypatch.setenv("PENSTOCK_LAUNCH_GENERATION", str(program))
    monkeypatch.delenv("PENSTOCK_RUNFILES", raising=False)


async def test_a_package_that_the_engine_lacks_is_named(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    engine(monkeypatch, tmp_path, "import sys; sys.exit('serve generation: error: --speculative: it is not there')")
    assert await undraftable(recipe) == [], "a program that fails says nothing of packages"
    script = (
        "import json, sys\n"
        "assert sys.argv[-1] == '--check' and json.loads(sys.argv[-2])['method'] == 'suffix'\n"
        "print('usage: ...\\nserve generation: error: --speculative: it is not there', file=sys.stderr)\n"
        "sys.exit(2)"
    )
    engine(monkeypatch, tmp_path, script)
    assert await undraftable(recipe) == ["generation.speculative: it is not there"]


async def test_methods_without_a_package_ask_nobody(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    engine(monkeypatch, tmp_path, "raise SystemExit(2)")
    ngram = resolve(recipe.model_dump(mode="json") | {"generation": {"speculative": {"method": "ngram"}}})
    assert await undraftable(ngram) == []
