"""The same rows come out of every kind of file; what cannot be read is named with the nearest thing that can."""

import datetime
import decimal
import json
import pathlib
import shutil
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from penstock.datasets import Dataset, DatasetError
from penstock.datasets.reading import read
from penstock.recipes.sections import Data

SAVED = pathlib.Path(__file__).parent / "testdata" / "saved"
ROWS = [
    {
        "prompt": prompt,
        "answer": answer,
        "n": len(prompt),
        "tags": tags,
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
    }
    for prompt, answer, tags in (("b3a", "3ab", ["x", "y"]), ("c1", "1c", []))
]


def parquet(path: pathlib.Path, rows: list[dict[str, Any]]) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_the_same_rows_come_out_of_every_kind_of_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shards = tmp_path / "shards"
    for i, row in enumerate(ROWS):
        parquet(shards / f"train-{i:05d}-of-00002.parquet", [row])
    for path in (
        tmp_path / "rows.jsonl",
        parquet(tmp_path / "rows.parquet", ROWS),
        shards,
        shards / "train-*.parquet",
        SAVED / "train",
    ):
        assert read(path).rows == ROWS, path
    assert read(SAVED / "test").rows == ROWS[1:]


def test_a_data_set_directory_serves_prompts_demonstrations_and_preferences(tmp_path: pathlib.Path) -> None:
    data = Dataset(SAVED / "train", Data(train=str(SAVED / "train"), cut_answer=True), shuffle=False)
    task = data.task(1, "sort_characters")
    assert task.id == "train/1" and json.loads(task.row_json) == ROWS[1]
    assert [m.content for m in data.demonstration(0).messages] == ["b3a", "3ab"]
    path = parquet(tmp_path / "pairs.parquet", [{"prompt": "2+2", "chosen": "4", "rejected": "5"}])
    pairs = Dataset(path, Data(train=str(path)), shuffle=False)
    assert [(a.message.content, a.score) for a in pairs.preference(0).answers] == [("4", 1.0), ("5", 0.0)]


def test_several_splits_are_not_mixed_but_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DatasetError, match=r"several splits; name one: .*saved/test, .*saved/train"):
        read(SAVED)
    for split in ("test", "train"):
        parquet(tmp_path / f"{split}-00000-of-00001.parquet", ROWS)
    with pytest.raises(DatasetError, match=r"several splits; name one: .*/test-\*\.parquet, .*/train-\*\.parquet"):
        read(tmp_path)


def test_a_folder_above_the_data_is_told_where_they_are(tmp_path: pathlib.Path) -> None:
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", ROWS)
    with pytest.raises(DatasetError, match=r"holds neither parquet files .*; did you mean .*/data\?"):
        read(tmp_path)
    with pytest.raises(DatasetError, match="no file matches"):
        read(tmp_path / "*.parquet")


def test_dates_and_decimals_become_text_and_bytes_are_refused_by_their_column(tmp_path: pathlib.Path) -> None:
    day, cost = datetime.date(2026, 1, 2), decimal.Decimal("1.50")
    (row,) = read(parquet(tmp_path / "a.parquet", [{"day": day, "cost": cost, "gone": None}])).rows
    assert row == {"day": "2026-01-02", "cost": "1.50", "gone": None}
    with pytest.raises(DatasetError, match="column image is struct<bytes: binary>, which a row cannot carry"):
        read(parquet(tmp_path / "b.parquet", [{"image": {"bytes": b"\x89PNG"}}]))


def test_files_that_are_not_what_they_are_called_are_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(DatasetError, match=r"a\.parquet: "):
        read(tmp_path / "a.parquet")
    shutil.copytree(SAVED / "train", tmp_path / "saved")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").write_bytes(b"\xff" * 64)
    with pytest.raises(DatasetError, match=r"data-00000-of-00001\.arrow: "):
        read(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text('{"_data_files": 3}')
    with pytest.raises(DatasetError, match=r"state\.json: cannot be read"):
        read(tmp_path / "saved")
    with pytest.raises(DatasetError, match="has no rows"):
        read(parquet(tmp_path / "none.parquet", []))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"promt": "a"}, "row 1: data.prompt '{prompt}' needs 'prompt'; it has promt; is 'promt' for 'prompt' meant?"),
        ({"question": "a"}, "row 1: data.prompt '{prompt}' needs 'prompt'; it has question"),
    ],
)
def test_a_wrong_column_is_named_with_the_nearest(row: dict[str, str], words: str, tmp_path: pathlib.Path) -> None:
    path = parquet(tmp_path / "a.parquet", [row])
    with pytest.raises(DatasetError) as error:
        Dataset(path, Data(train=str(path)), shuffle=False).task(0, "")
    assert words in str(error.value)


def test_a_wrong_preference_column_is_named_with_the_nearest(tmp_path: pathlib.Path) -> None:
    path = parquet(tmp_path / "a.parquet", [{"prompt": "a", "choosen": "x", "rejected": "y"}])
    with pytest.raises(DatasetError, match="it has choosen, prompt, rejected; is 'choosen' for 'chosen' meant"):
        Dataset(path, Data(train=str(path)), shuffle=False).preference(0)


def test_tool_calls_of_a_conversation_are_kept(tmp_path: pathlib.Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "2"},
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}))
    data = Dataset(tmp_path / "a.jsonl", Data(train="a.jsonl"), shuffle=False)
    asked = data.demonstration(0).messages[1]
    assert asked.content == "" and asked.tool_calls[0].name == "add"
    assert json.loads(asked.tool_calls[0].arguments_json) == {"a": 1}
