"""Rows come in a seeded order that can be entered anywhere; a bad file is named with line and field."""

import pathlib
from typing import Any

import pytest

from penstock.datasets import Dataset, DatasetError
from penstock.recipes.sections import Data


def dataset(folder: pathlib.Path, text: str, *, shuffle: bool = True, **data: Any) -> Dataset:
    (folder / "rows.jsonl").write_text(text)
    return Dataset(folder / "rows.jsonl", Data(train="rows.jsonl", **data), shuffle=shuffle)


def numbered(n: int) -> str:
    return "".join(f'{{"prompt": "p{i}", "answer": {i}}}\n' for i in range(n))


def test_every_pass_visits_every_row_once_and_passes_differ(tmp_path: pathlib.Path) -> None:
    data = dataset(tmp_path, numbered(50))
    passes = [[data.position(turn * 50 + i) for i in range(50)] for turn in range(3)]
    for turn, visited in enumerate(passes):
        assert {p for p, _ in visited} == {turn}
        assert sorted(row for _, row in visited) == list(range(50))
    assert len({tuple(row for _, row in visited) for visited in passes}) == 3


def test_the_order_is_a_function_of_the_seed_and_the_number(tmp_path: pathlib.Path) -> None:
    numbers = [149, 3, 75, 0]
    first = [dataset(tmp_path, numbered(50), seed=1).position(n) for n in numbers]
    assert [dataset(tmp_path, numbered(50), seed=1).position(n) for n in reversed(numbers)] == first[::-1]
    assert [dataset(tmp_path, numbered(50), seed=2).position(n) for n in numbers] != first
    assert [dataset(tmp_path, numbered(5), shuffle=False).position(n)[1] for n in range(7)] == [0, 1, 2, 3, 4, 0, 1]


def test_rows_of_an_environment_that_speaks_first_need_no_prompt(tmp_path: pathlib.Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"low": 1, "high": 8}\n')
    data = Dataset(tmp_path / "rows.jsonl", Data(train="rows.jsonl"), shuffle=False, prompts=False)
    assert not data.task(0, "guess_number").messages and '"high": 8' in data.task(0, "guess_number").row_json
    with pytest.raises(DatasetError, match="needs 'prompt'"):
        Dataset(tmp_path / "rows.jsonl", Data(train="rows.jsonl"), shuffle=False)


def test_a_limit_takes_the_first_rows(tmp_path: pathlib.Path) -> None:
    (tmp_path / "rows.jsonl").write_text(numbered(9))
    data = Dataset(tmp_path / "rows.jsonl", Data(train="rows.jsonl"), shuffle=True, limit=4)
    assert sorted(data.position(i)[1] for i in range(4)) == [0, 1, 2, 3] and data.position(4)[0] == 1


def test_a_row_becomes_messages_by_the_recipes_templates(tmp_path: pathlib.Path) -> None:
    data = dataset(tmp_path, numbered(2), prompt="sort {prompt}!", system="be brief", completion="{answer}")
    task = data.task(1, "sort_characters")
    assert [(m.role, m.content) for m in task.messages] == [("system", "be brief"), ("user", "sort p1!")]
    assert (task.id, task.environment, task.row_json) == ("rows/1", "sort_characters", '{"prompt": "p1", "answer": 1}')
    assert data.demonstration(1).messages[-1].content == "1"


def test_rows_with_messages_are_taken_as_they_are(tmp_path: pathlib.Path) -> None:
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    demonstration = dataset(tmp_path, row).demonstration(0)
    assert [(m.role, m.content) for m in demonstration.messages] == [("user", "a"), ("assistant", "b")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no rows"),
        ("\n \n", "has no rows"),
        ('{"prompt": "a"}\n[1]\n', "line 2: must be a JSON object, is a list"),
        ('{"prompt": "a"}\n{oops\n', "line 2"),
        ("\x00\x01", "line 1"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: pathlib.Path, text: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words) as error:
        dataset(tmp_path, text)
    assert "rows.jsonl" in str(error.value)


def test_a_missing_file_and_a_missing_field_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DatasetError, match="No such file"):
        Dataset(tmp_path / "none.jsonl", Data(train="x"), shuffle=False)
    with pytest.raises(
        DatasetError, match=r"line 1: data.prompt '\{question\}' needs 'question'; it has answer, prompt"
    ):
        dataset(tmp_path, numbered(1), prompt="{question}")


@pytest.mark.parametrize("messages", ['"x"', "[1]", '[{"role": "user"}]', '[{"role": 1, "content": "x"}]'])
def test_malformed_messages_are_named(tmp_path: pathlib.Path, messages: str) -> None:
    with pytest.raises(DatasetError, match="line 1: messages"):
        dataset(tmp_path, f'{{"messages": {messages}}}\n')


def test_ranked_answers_come_in_every_usual_form(tmp_path: pathlib.Path) -> None:
    rows = [
        '{"prompt": "2+2", "chosen": "4", "rejected": "5"}',
        '{"prompt": [{"role": "user", "content": "2+2"}], "answers": ["4", "3", "5"]}',
        '{"chosen": [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}], '
        '"rejected": [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "5"}]}',
        '{"prompt": "2+2", "target": "5", "label": false}',
    ]
    data = dataset(tmp_path, "\n".join(rows))
    works = [data.preference(i) for i in range(4)]
    assert {w.prompt[0].content for w in works} == {"2+2"} and {len(w.prompt) for w in works} == {1}
    ranked = [[(a.message.content, a.score) for a in w.answers] for w in works]
    assert ranked[0] == ranked[2] == [("4", 1.0), ("5", 0.0)]
    assert ranked[1] == [("4", 2.0), ("3", 1.0), ("5", 0.0)] and ranked[3] == [("5", 0.0)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"prompt": "p", "chosen": "a"}', "line 1: preference data needs chosen and rejected, or answers, or label"),
        ('{"prompt": "p", "chosen": 3, "rejected": "b"}', "line 1: chosen must be text"),
        ('{"prompt": "p", "answers": ["a", 3]}', "line 1: answers must be text"),
        ('{"prompt": "p", "chosen": [{"role": "user", "content": "x"}], "rejected": "b"}', "end with an assistant"),
    ],
)
def test_a_row_without_usable_answers_is_named(tmp_path: pathlib.Path, row: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        dataset(tmp_path, row).preference(0)
