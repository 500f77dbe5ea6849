"""Whatever a file holds, its rows are read, left out with their place, or refused: nothing raises anything else.

Rows of every form are cut, swapped and filled with what tables and scripts really leave in them, as values and as
bytes; what is left goes the whole way to tokens.
"""

import contextlib
import copy
import json
import pathlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.chat import ChatTokenizer, TemplateError
from penstock.datasets import DatasetError, tokenise, training_rows
from penstock.recipes import Longest, Recipe, resolve
from penstock.tiny_model import make_model
from penstock.trajectories import check_trajectory
from penstock.trajectory.v1 import trajectory_pb2 as pb

TURNS = [{"role": "system", "content": "be"}, {"role": "user", "content": "ba"}, {"role": "assistant", "content": "ab"}]
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL_TURNS = [
    {"role": "user", "content": "1+1"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "2", "tool_call_id": "1"},
    {"role": "assistant", "content": "2", "reasoning_content": "one and one"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}]
SPOKEN = [{"from": "human", "value": "ba"}, {"from": "gpt", "value": "ab"}]

FORMS: dict[str, list[dict[str, Any]]] = {
    "grpo": [{"prompt": "cab"}, {"prompt": TURNS[:2]}, {"messages": TURNS[:2], "tools": TOOLS}, {"messages": SPOKEN}],
    "sft": [
        {"prompt": "cab", "target": "abc"},
        {"messages": TURNS},
        {"messages": TOOL_TURNS, "tools": json.dumps(TOOLS)},
    ],
    "dpo": [
        {"prompt": "cab", "chosen": "abc", "rejected": "cab"},
        {"chosen": TURNS, "rejected": [*TURNS[:2], {"role": "assistant", "content": "x"}]},
        {"prompt": "cab", "answers": ["a", "b"]},
    ],
}
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        2**63,
        10**30,
        0.5,
        1e308,
        "",
        " ",
        "\n",
        "\x00",
        "\ud83d",
        "\ufeffa",
        "<|im_end|>",
        "{prompt}",
    ),
    *("null", "[]", "a" * 5000, [], {}, [[]], [None], {"role": "user"}, {"role": None, "content": None}, TURNS, CALL),
)


def mutated(value: Any, chance: random.Random) -> Any:
    """The value with one thing in it changed."""
    inside = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inside or chance.random() < 0.2:
        return copy.deepcopy(chance.choice(ODD))
    key = chance.choice(inside)
    match chance.randrange(5):
        case 0:
            del value[key]
        case 1 if isinstance(value, list):
            value.append(copy.deepcopy(value[key]))
        case 2 if isinstance(value, dict):
            value[str(chance.choice(["", "role", "label", "tools", "messages", "prompt", "é"]))] = value.pop(key)
        case _:
            value[key] = mutated(value[key], chance)
    return value


def line(row: dict[str, Any], chance: random.Random) -> bytes:
    """A line of the file: the row with some changes, and now and then some of its bytes too."""
    for _ in range(chance.randrange(3)):
        row = mutated(row, chance)
    text = bytearray(json.dumps(row, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass"))
    while text and chance.random() < 0.2:
        text[chance.randrange(len(text))] = chance.randrange(256)
    return bytes(text).replace(b"\n", b" ") + chance.choice([b"\n", b"\r\n"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("mutated") / "model"
    make_model(path, hidden=32, layers=1, intermediate=64)
    return str(path)


def recipe(method: str, model: str, path: pathlib.Path, size: int) -> Recipe:
    algorithm: dict[str, Any] = {"name": method, "steps": 1, "group_size": size}
    if method == "dpo":
        algorithm["preference"] = {"source": "dataset"}
    environment = {"environment": {"name": "sort_characters"}} if method == "grpo" else {}
    data = {"train": str(path), "bad_rows": "skip", "cut_answer": True}
    raw = {"run": "r1", "model": {"path": model}, "data": data, "algorithm": algorithm, **environment}
    return resolve(raw, [])


@pytest.mark.parametrize("method", list(FORMS))
def test_no_row_does_anything_but_train_or_be_told(
    tmp_path_factory: pytest.TempPathFactory, model: str, method: str
) -> None:
    chat, longest = ChatTokenizer(model), Longest(256, "generation.max_context", cut=False)
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n')
    made = recipe(method, model, path, 1 if method == "sft" else 2)
    trained = 0

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, 2**32))
    def one(seed: int) -> None:
        nonlocal trained
        chance = random.Random(seed)
        path.write_bytes(b"".join(line(copy.deepcopy(chance.choice(FORMS[method])), chance) for _ in range(6)))
        try:
            rows = training_rows(made)
        except DatasetError as error:
            assert str(path) in str(error)
            return
        assert all(str(path) in told for told in rows.left_out)
        for row in range(len(rows)):
            task = pb.GroupTask(run="r1", group="g00000000", kind=pb.TASK_KIND_TRAIN, group_size=1, row=row)
            if method == "grpo":
                asked = rows.task(row, "sort_characters")
                with contextlib.suppress(TemplateError):
                    trained += bool(chat.render(asked.messages, tools=json.loads(asked.tools_json or "[]")))
                continue
            if method == "sft":
                task.demonstration.demonstrations.append(rows.demonstration(row))
            else:
                task.preference.CopyFrom(rows.preference(row))
            t = tokenise(chat, model, task, 0, longest)
            check_trajectory(t)
            trained += t.outcome.status != pb.Outcome.STATUS_FAILED

    one()
    assert trained, "most rows are as they should be"
