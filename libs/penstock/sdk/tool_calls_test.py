"""Reading, checking and answering a model's tool calls."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.sdk import Message
from penstock.sdk.tool_calls import CLOSE, MAX_CALLS, OPEN, RESULT_LENGTH, Call, Malformed, ToolError, Tools, parse


def add(a: int, b: int = 1) -> int:
    """Adds."""
    if a == 13:
        raise ToolError("13 is not added here")
    return a + b


def shout(words: list[str], how: Literal["loud", "quiet"] = "loud", share: float | None = None) -> str:
    """Repeats words."""
    return " ".join(words).upper() * 3000


def broken(x: str) -> str:
    """Is wrong itself."""
    raise KeyError(x)


TOOLS = Tools([add, shout, broken])


def turn(text: str, *structured: Any) -> Message:
    return Message("assistant", text, structured)


def called(name: str, **arguments: Any) -> str:
    return OPEN + json.dumps({"name": name, "arguments": arguments}) + CLOSE


def test_calls_are_found_in_parallel_with_text_around_them() -> None:
    text = "first " + called("add", a=1, b=2) + " and\n<tool_call>\n" + '{"name": "add"}' + "\n</tool_call> done"
    parsed = parse(turn(text, {"id": "1", "name": "add", "arguments": {"a": 5}}))
    assert parsed.calls == (Call("add", {"a": 5}), Call("add", {"a": 1, "b": 2}), Call("add", {}))
    assert parsed.text == "first  and\n done"
    assert [answer.text for answer in TOOLS.run(parsed.calls[:2])] == ["6", "3"]


def test_a_turn_without_calls_is_text() -> None:
    assert parse(turn(" the answer is </tool_call> 7 ")).text == "the answer is </tool_call> 7"
    assert parse(turn("")).calls == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (OPEN + '{"name": "add", "arguments": {"a": 1}', "not closed"),
        (OPEN + '{"name": "add", }' + CLOSE, "not JSON"),
        (OPEN + "[" * 5000 + CLOSE, "nested too deeply|not JSON"),
        (OPEN + '{"name": "add", "arguments": {"a": ' + "9" * 5000 + "}}" + CLOSE, "too long"),
        (OPEN + '["add"]' + CLOSE, "not an object"),
        (OPEN + '{"arguments": {}}' + CLOSE, 'no "name"'),
        (OPEN + '{"name": "add", "arguments": "a=1"}' + CLOSE, 'must be an object, not "a=1"'),
        (called("subtract"), 'no tool "subtract"; there is add, shout'),
        (called("add"), "needs the argument 'a'; it takes a, b"),
        (called("add", a=1, c=2), 'no argument "c"; it takes a, b'),
        (called("add", a="one"), "argument 'a' is \"one\": input should be a valid integer"),
        (called("add", a=1.5), "argument 'a' is 1.5"),
        (called("add", a=True), "argument 'a' is true"),
        (called("add", a=13), "13 is not added here"),
        (called("shout", words=["a", 1]), "argument 'words' is .*valid string"),
        (called("shout", words=[], how="silent"), "argument 'how' is \"silent\".*'loud' or 'quiet'"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    (answer,) = TOOLS.run(parse(turn(text)).calls)
    assert answer.failed
    assert answer.message().role == "tool"
    assert answer.text.startswith("error: ")
    assert re.search(says, answer.text), answer.text


def test_long_results_and_too_many_calls_are_cut() -> None:
    answers = TOOLS.run(parse(turn(called("shout", words=["aa", "bb"]) * (MAX_CALLS + 1))).calls)
    assert "more characters were cut" in answers[0].text and len(answers[0].text) < RESULT_LENGTH + 100
    assert [answer.failed for answer in answers] == [False] * MAX_CALLS + [True]
    assert f"at most {MAX_CALLS}" in answers[-1].text


def test_a_fault_of_a_tool_is_not_the_models() -> None:
    with pytest.raises(KeyError):
        TOOLS.run([Call("broken", {"x": "y"})])


def test_a_tool_without_types_is_refused() -> None:
    def untyped(x) -> None:  # type: ignore[no-untyped-def]
        pass

    def positional(x: int, /) -> None:
        pass

    for function in (untyped, positional):
        with pytest.raises(TypeError, match="'x'"):
            Tools([function])


def test_the_prompt_shows_types_and_purpose() -> None:
    prompt = TOOLS.prompt()
    (line,) = [line for line in prompt.splitlines() if '"add"' in line]
    about = json.loads(line)["function"]
    assert about["description"] == "Adds."
    assert about["parameters"]["properties"] == {"a": {"type": "integer"}, "b": {"type": "integer"}}
    assert about["parameters"]["required"] == ["a"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.sampled_from("ab"), inner),
    max_leaves=8,
)
GARBAGE = st.lists(
    st.sampled_from([OPEN, CLOSE, "{", "}", '"', '{"name": "add", "arguments": ', '"a": 1', "<tool_", "\ud800"])
    | st.text(max_size=8)
).map("".join)
CALLS = st.builds(
    lambda name, arguments: OPEN + json.dumps({"name": name, "arguments": arguments}) + CLOSE,
    st.sampled_from(["add", "shout", "x"]) | JSON,
    st.dictionaries(st.sampled_from(["a", "b", "words", "how", "share", "z"]), JSON) | JSON,
)


@given(st.lists(GARBAGE | CALLS, max_size=4).map("".join), st.lists(JSON, max_size=2))
def test_no_turn_of_a_model_raises(text: str, structured: list[Any]) -> None:
    calls = [{"id": "", "name": value, "arguments": value} for value in structured]
    parsed = parse(turn(text, *calls))
    answers = TOOLS.run(parsed.calls)
    assert len(answers) == len(parsed.calls) >= len(calls)
    assert all(isinstance(answer.text, str) for answer in answers)
    assert all(a.failed for a, call in zip(answers, parsed.calls, strict=True) if isinstance(call, Malformed))


@given(st.lists(st.tuples(st.text(), st.integers(0, 9)), max_size=4))
def test_what_is_written_is_read(pieces: list[tuple[str, int]]) -> None:
    pieces = [(text.replace("<", ""), a) for text, a in pieces]
    text = "".join(before + called("add", a=a) for before, a in pieces)
    assert parse(turn(text)).calls == tuple(Call("add", {"a": a}) for _, a in pieces)
