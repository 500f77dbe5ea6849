"""Every row is tried before a run starts; a bad one refuses it, or is left out and told."""

import json
import pathlib

import pytest

from penstock.datasets import DatasetError, held_out_rows, training_rows
from penstock.recipes import Recipe, RecipeError, resolve
from penstock.tiny_model import make_model

GOOD = [{"prompt": f"a{i}"} for i in range(6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tried") / "model"
    make_model(path, hidden=32, layers=1, intermediate=64)
    return str(path)


def recipe(folder: pathlib.Path, model: str, lines: list[str], **data: object) -> Recipe:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return resolve(
        {
            "run": "r1",
            "model": {"path": model},
            "data": {"train": str(path), "eval": str(path), **data},
            "environment": {"name": "sort_characters"},
            "algorithm": {"steps": 1},
        },
        [],
    )


BAD = ['{"prompt": null}', '{"prompt": [1]}', "{", '{"prompt": "\\ud83d"}', "[1]", "\xff\xfe", '{"promt": "a"}']


@pytest.mark.parametrize("line", BAD)
def test_a_bad_row_is_refused_with_its_line_or_left_out_and_told(tmp_path: pathlib.Path, model: str, line: str) -> None:
    good = [json.dumps(row) for row in GOOD]
    lines = ["", *good[:2], "", line, *good[2:]]
    with pytest.raises(DatasetError, match=r"rows\.jsonl, line 5: "):
        training_rows(recipe(tmp_path, model, lines))
    for read in (training_rows, held_out_rows):
        rows = read(recipe(tmp_path, model, lines, bad_rows="skip"))
        assert rows is not None and [row["prompt"] for row in rows.rows] == [row["prompt"] for row in GOOD]
        assert len(rows.left_out) == 1 and "rows.jsonl, line 5: " in rows.left_out[0]
        assert rows.at(0).endswith("line 2") and rows.at(2).endswith("line 6"), "places are the file's"


def test_rows_of_which_none_can_be_used_are_refused(tmp_path: pathlib.Path, model: str) -> None:
    with pytest.raises(DatasetError, match="no row can be used; the first: .*line 2"):
        training_rows(recipe(tmp_path, model, ['{"prompt": null}', "{"], bad_rows="skip"))


def test_the_first_rows_alone_are_tried_if_the_recipe_says_so(tmp_path: pathlib.Path, model: str) -> None:
    lines = [json.dumps(row) for row in GOOD] + ['{"prompt": null}']
    rows = training_rows(recipe(tmp_path, model, lines, check=6))
    with pytest.raises(DatasetError, match="line 7"):
        rows.task(6, "")
    with pytest.raises(DatasetError, match="line 7"):
        training_rows(recipe(tmp_path, model, lines, check=7))
    with pytest.raises(RecipeError, match=r"data\.check: 6 with data\.bad_rows=skip"):
        recipe(tmp_path, model, lines, check=6, bad_rows="skip")
