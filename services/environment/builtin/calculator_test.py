"""The calculator, its safety, and the answers it is asked for."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.sdk import BadRow, Message, Scored, Turn
from penstock.sdk.tool_calls import ToolError
from services.environment.answers.final import equal, final_answer, number
from services.environment.builtin.calculator import LARGEST_BITS, LONGEST, Calculator, calculate, evaluate

ROW = {"question": "what is (17 + 4) * 12?", "answer": "252"}


def turn(text: str) -> Message:
    return Message("assistant", text)


def call(expression: object) -> str:
    return f"<tool_call>{json.dumps({'name': 'calculate', 'arguments': {'expression': expression}})}</tool_call>"


def opened() -> Calculator:
    game = Calculator()
    game.reset(ROW, 0)
    return game


def value(played: Turn) -> float:
    assert isinstance(played.result, Scored)
    return played.result.value


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1 + 2 * 3", "7"),
        ("(17+4)*12", "252"),
        ("-2 ** 2", "-4"),
        ("7 // 2 + 7 % 4", "6"),
        ("1/4", "0.25"),
        ("2 ** 0.5", str(math.sqrt(2))),
        ("1 ** 100000000", "1"),
        ("2 ** -1", "0.5"),
    ],
)
def test_arithmetic_is_evaluated(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "(1).__class__",
        "x",
        "[1][0]",
        "'a' * 9",
        "True + 1",
        "1 if 1 else 2",
        "lambda: 1",
        "1j",
        "(-8) ** 0.5",
        "f'{1}'",
        "1 < 2",
        "~1",
        "1 << 99999999",
        "9 ** 9 ** 9",
        "2 ** 4097",
        "10.0 ** 400",
        "1e400",
        "(2 ** 4000) / 1",
        "1 / 0",
        "0 ** -1",
        "1 % 0",
        "2 ^ 3",
        "1,000 + 1",
        "",
        "1 +",
        "(" * 250 + "1" + ")" * 250,
        "-" * 499 + "1",
        "1" * (LONGEST + 1),
        "\x00",
    ],
)
def test_everything_else_is_refused_with_a_reason(expression: str) -> None:
    if expression.startswith("---"):
        assert evaluate(expression) == -1  # deep, but arithmetic
        return
    with pytest.raises(ToolError, match=r"\w"):
        calculate(expression)


@given(st.text(alphabet="0123456789.+-*/%() eE_x[],'j", max_size=60))
def test_no_expression_harms(expression: str) -> None:
    try:
        result = evaluate(expression)
    except ToolError:
        return
    assert math.isfinite(result) if isinstance(result, float) else result.bit_length() <= LARGEST_BITS


def test_an_episode_calls_then_answers() -> None:
    game = opened()
    played = game.step(turn(f"let me see {call('17 + 4')}{call('21 * 12')}"), "stop")
    assert [(m.role, m.content) for m in played.messages] == [("tool", "21"), ("tool", "252")]
    assert not played.done and value(played) == 0.0
    played = game.step(turn("So the answer is **252**."), "stop")
    assert played.done and played.result == Scored(1.0, {"turns": 2.0, "calls": 2.0, "failed_calls": 0.0}, "252")


def test_wrong_calls_are_observations_and_wrong_answers_zero() -> None:
    game = opened()
    played = game.step(turn(call("os") + call(7) + "<tool_call>{"), "stop")
    assert [m.content.startswith("error: ") for m in played.messages] == [True] * 3
    played = game.step(turn("251"), "stop")
    assert played.result == Scored(0.0, {"turns": 2.0, "calls": 3.0, "failed_calls": 3.0}, "251")


def test_a_turn_that_was_cut_off_is_no_answer() -> None:
    game = opened()
    played = game.step(turn("252 is what I would"), "length")
    assert not played.done and value(played) == 0.0 and "cut off" in played.messages[0].content


def test_an_episode_that_never_answers_ends_with_nothing() -> None:
    game = opened()
    played = [game.step(turn(call("1")), "stop") for _ in range(game.max_turns)]
    assert [each.done for each in played] == [False] * (game.max_turns - 1) + [True]
    assert value(played[-1]) == 0.0


@pytest.mark.parametrize("row", [{}, {"question": "?"}, {"question": 1, "answer": 1}, {"question": "?", "answer": []}])
def test_a_row_that_does_not_fit_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(BadRow, match="question|answer"):
        Calculator().reset(row, 0)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("first 3, then 4", "4"),
        ("it costs $1,250.50.", "1,250.50"),
        (r"thus \boxed{-7} and 8", "-7"),
        ("12\n#### 5\n", "5"),
        ("The answer is: 9 apples", "9"),
        ("Answer: Paris.", "Paris"),
        ("paris", "paris"),
        ("", ""),
    ],
)
def test_the_final_answer_is_what_stands_last(text: str, answer: str) -> None:
    assert equal(final_answer(text), answer)


def test_numbers_are_equal_by_value() -> None:
    assert (
        equal("1,250.0", "1250") and equal("$3", "3") and equal("1/2", ".5".replace(".", "0.")) and equal("1e3", "1000")
    )
    assert not equal("1250", "1251") and not equal("", "0") and not equal("0.1", "0.10000000000000001")
    assert equal(" New  York", "new york") and not equal("York", "New York")
    assert number("1/0") is None and number("9" * 5000) is None and number("1e999") == Fraction("1e999")


@given(st.text(), st.text())
def test_no_answer_raises(text: str, expected: str) -> None:
    assert equal(final_answer(text), expected) in (True, False)
