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
        Dataset(tmp_path / "rows.jsonl", Data(train="rows.jsonl"), shuffle=False).task(0, "guess_number")


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
        dataset(tmp_path, numbered(1), prompt="{question}").task(0, "")


@pytest.mark.parametrize("messages", ['"x"', "[1]", '[{"role": "user"}]', '[{"role": 1, "content": "x"}]'])
def test_malformed_messages_are_named(tmp_path: pathlib.Path, messages: str) -> None:
    with pytest.raises(DatasetError, match="line 1: messages"):
        dataset(tmp_path, f'{{"messages": {messages}}}\n').task(0, "")


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
        ('{"prompt": "p", "chosen": "a", "rejected": "a"}', "line 1: chosen and rejected are the same"),
        ('{"prompt": "p", "answers": ["a", 3]}', "line 1: answers must be text"),
        ('{"prompt": "p", "chosen": [{"role": "user", "content": "x"}], "rejected": "b"}', "end with an assistant"),
    ],
)
def test_a_row_without_usable_answers_is_named(tmp_path: pathlib.Path, row: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        dataset(tmp_path, row).preference(0)


CONVERSATION = '[{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]'


def said(messages: Any) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in messages]


def test_a_prompt_that_the_recipe_states_comes_before_the_rows_conversation(tmp_path: pathlib.Path) -> None:
    """The engine was asked question *and* answer."""
    data = dataset(tmp_path, f'{{"problem": "1+1", "messages": {CONVERSATION}}}\n', prompt="{problem}")
    assert said(data.task(0, "math").messages) == [("user", "1+1")]


def test_a_conversation_that_ends_with_the_answer_is_no_question_unless_it_is_cut(tmp_path: pathlib.Path) -> None:
    row = f'{{"messages": {CONVERSATION}}}\n'
    with pytest.raises(DatasetError, match=r"line 1: the conversation ends with the assistant.*data.cut_answer"):
        dataset(tmp_path, row).task(0, "math")
    assert said(dataset(tmp_path, row, cut_answer=True).task(0, "math").messages) == [("user", "2+2")]
    with pytest.raises(DatasetError, match="asks nothing"):
        only = '{"messages": [{"role": "assistant", "content": "4"}]}'
        dataset(tmp_path, only, cut_answer=True).task(0, "math")


@pytest.mark.parametrize("field", ["messages", "prompt"])
def test_the_recipes_system_message_is_put_before_rows_that_have_none(tmp_path: pathlib.Path, field: str) -> None:
    own = '[{"role": "system", "content": "mine"}, {"role": "user", "content": "2+2"}]'
    rows = f'{{"{field}": [{{"role": "user", "content": "2+2"}}]}}\n{{"{field}": {own}}}\n'
    data = dataset(tmp_path, rows, system="be brief")
    assert [said(data.task(i, "math").messages)[0] for i in range(2)] == [("system", "be brief"), ("system", "mine")]


def test_conversations_in_other_words_are_understood(tmp_path: pathlib.Path) -> None:
    turns = '[{"from": "human", "value": "2+2"}, {"from": "gpt", "value": "4"}, {"from": "function", "value": "ok"}]'
    data = dataset(tmp_path, f'{{"conversations": {turns}}}\n', messages="conversations")
    assert said(data.demonstration(0).messages) == [("user", "2+2"), ("assistant", "4"), ("tool", "ok")]


def test_what_a_message_says_beside_its_content_is_kept(tmp_path: pathlib.Path) -> None:
    call = '{"id": "c1", "function": {"name": "add", "arguments": {"a": 1}}}'
    turns = (
        '[{"role": "user", "content": "?"}, '
        f'{{"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [{call}]}}, '
        '{"role": "tool", "content": "1", "tool_call_id": "c1", "name": "add"}]'
    )
    tools = '[{"type": "function", "function": {"name": "add"}}]'
    shown = dataset(tmp_path, f'{{"messages": {turns}, "tools": {tools}}}\n').demonstration(0)
    _, asked, told = shown.messages
    assert (asked.null_content, asked.reasoning_content, asked.tool_calls[0].arguments_json) == (True, "hm", '{"a": 1}')
    assert (told.tool_call_id, told.name) == ("c1", "add") and shown.tools_json == tools


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"prompt": null}', "data.prompt .* needs a text or a number, not None"),
        ('{"prompt": {"a": 1}}', "not {'a': 1}"),
        ('{"prompt": true}', "not True"),
        ('{"prompt": "b\\ud83da"}', "line 1: 'prompt' has half a surrogate pair"),
        ('{"prompt": "a", "x": NaN}', "line 1: NaN is no JSON number"),
        ('{"prompt": "a", "prompt": "b"}', "line 1: 'prompt' is there twice"),
        ('{"prompt": ' + "[" * 100_000 + "}", "line 1: nested too deeply"),
        ('{"prompt": "a", "n": ' + "9" * 5000 + "}", "line 1: Exceeds the limit"),
        ('{"messages": []}', "messages is an empty conversation"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "role 'robot' is none of system, user"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(tmp_path: pathlib.Path, row: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        dataset(tmp_path, row + "\n").task(0, "")


def test_a_target_that_is_null_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DatasetError, match=r"line 1: data.completion .* not None"):
        dataset(tmp_path, '{"prompt": "a", "target": null}').demonstration(0)


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: pathlib.Path) -> None:
    data = dataset(tmp_path, '\ufeff{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert [said(data.task(i, "x").messages) for i in range(2)] == [[("user", "a")], [("user", "b")]]


def test_a_null_is_a_field_that_the_row_lacks(tmp_path: pathlib.Path) -> None:
    """parquet fills in what rows of other kinds have."""
    row = '{"messages": null, "answers": null, "prompt": "p", "chosen": "a", "rejected": "b", "label": null}'
    work = dataset(tmp_path, row).preference(0)
    assert said(work.prompt) == [("user", "p")] and [a.message.content for a in work.answers] == ["a", "b"]


@pytest.mark.parametrize("label", ['"false"', '"no"', "2", "0.5"])
def test_a_label_is_true_or_false(tmp_path: pathlib.Path, label: str) -> None:
    with pytest.raises(DatasetError, match="line 1: label must be true or false"):
        dataset(tmp_path, f'{{"prompt": "p", "target": "t", "label": {label}}}').preference(0)


@pytest.mark.parametrize("asked", ["3+3", None])
def test_answers_to_another_conversation_are_refused(tmp_path: pathlib.Path, asked: str | None) -> None:
    other = CONVERSATION.replace("2+2", "5+5")
    prompt = f'"prompt": "{asked}", ' if asked else ""
    data = dataset(tmp_path, f'{{{prompt}"chosen": {CONVERSATION}, "rejected": {other}}}')
    with pytest.raises(DatasetError, match="line 1: (chosen|rejected) answers another conversation"):
        data.preference(0)


@pytest.mark.parametrize("tools", ["3", '"x"', "[1]"])
def test_tools_that_are_none_are_refused(tmp_path: pathlib.Path, tools: str) -> None:
    with pytest.raises(DatasetError, match="line 1: tools"):
        dataset(tmp_path, f'{{"prompt": "p", "tools": {tools}}}').task(0, "x")
