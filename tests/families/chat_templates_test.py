"""Every chat template that the trl wheel ships: what works with it, as a table, and the rest refused by name."""

import pathlib
import sys
from collections.abc import Callable

import pytest

from penstock.chat import ChatTokenizer, TemplateError
from penstock.common.v1.common_pb2 import Message, ToolCall
from penstock.testing.chat_templates import make_tokenizer

WHEEL = pathlib.Path("../venv_bench/venv.json").resolve().parent / "venv/lib/python3.11/site-packages/trl"
TEMPLATES = [p for p in sorted(WHEEL.glob("chat_templates/*.jinja")) if not p.stem.endswith("training")]
QUESTION, ANSWER = Message(role="user", content="hello?"), Message(role="assistant", content="bye!")
THOUGHT = Message(role="assistant", content="42", reasoning_content="hmm")
CALL = Message(role="assistant", tool_calls=[ToolCall(id="call00001", name="add", arguments_json='{"a": 1}')])
RESULT = Message(role="tool", content="seven", tool_call_id="call00001", name="add")
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer", "description": "A."}}, "required": ["a"]}
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS}}
MUST_WORK = ("turns", "demonstration", "thinking")
"""For every family; what else it refuses is in the table."""


@pytest.fixture(scope="module", params=TEMPLATES, ids=lambda path: path.stem)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_tokenizer(tmp_path_factory.mktemp("family") / request.param.stem, request.param.read_text())


def test_there_are_templates() -> None:
    assert len(TEMPLATES) > 30


def test_what_is_trained_is_what_the_template_writes_and_the_rest_is_refused_by_name(family: pathlib.Path) -> None:
    chat = ChatTokenizer(family)
    tried = {name: _tried(lambda name=name: PLAYS[name](chat)) for name in PLAYS}  # type: ignore[misc]
    ends = " ".join(f"`{chat.named(token)}`" for token in chat.stop_tokens[:1])
    sys.stdout.write("| " + " | ".join([family.name, ends, *tried.values(), chat.call_form or "-"]) + " |\n")
    for name in MUST_WORK:
        assert tried[name] == "yes", f"{family.name}: {name}: {tried[name]}"


def test_calls_are_read_from_what_the_template_writes_of_them(family: pathlib.Path) -> None:
    chat = ChatTokenizer(family)
    if chat.call_form is None:
        pytest.skip("the form of its calls is not read: they are left in the text")
    tokens, mask = chat.demonstration([QUESTION, CALL], tools=[ADD])
    said = chat.said([token for token, on in zip(tokens, mask, strict=True) if on], calls=chat.call_form)
    assert [(call.name, call.arguments_json) for call in said.tool_calls] == [("add", '{"a": 1}')]


def _tried(play: Callable[[], None]) -> str:
    try:
        play()
    except TemplateError as error:
        return str(error).removeprefix("the chat template ")
    return "yes"


def _turns(chat: ChatTokenizer) -> None:
    chat.try_turns()
    assert "hello?" in _raw(chat, chat.after_turn([QUESTION], history=[QUESTION, ANSWER, QUESTION]))


def _demonstration(chat: ChatTokenizer) -> None:
    assert _trained(chat, QUESTION, ANSWER, QUESTION, ANSWER).count("bye!") == 2


def _thinking(chat: ChatTokenizer) -> None:
    assert "42" in _trained(chat, QUESTION, THOUGHT)


def _tool(chat: ChatTokenizer) -> None:
    assert "seven" in _raw(chat, chat.after_turn([RESULT], history=[QUESTION], tools=[ADD]))


def _calls(chat: ChatTokenizer) -> None:
    trained = _trained(chat, QUESTION, CALL, RESULT, ANSWER)
    assert "add" in trained and "bye!" in trained and "seven" not in trained and '\\"a\\"' not in trained


PLAYS = {"turns": _turns, "demonstration": _demonstration, "thinking": _thinking, "tool": _tool, "calls": _calls}


def _trained(chat: ChatTokenizer, *messages: Message) -> str:
    tokens, mask = chat.demonstration(messages, tools=[ADD] if any(m.tool_calls for m in messages) else [])
    assert tokens[-1] in chat.stop_tokens or len(tokens) > 2
    return _raw(chat, [token for token, on in zip(tokens, mask, strict=True) if on])


def _raw(chat: ChatTokenizer, tokens: list[int]) -> str:
    return str(chat._tokenizer.decode(tokens))
