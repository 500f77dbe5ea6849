"""The built-in rewards and the guessing game, as functions."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.sdk import BadRow, Invalid, Message, Sample, Scored
from services.environment import catalogue
from services.environment.arithmetic import LEVELS, arithmetic, make_problem, solution
from services.environment.format import matches_format
from services.environment.guess_number import GuessNumber
from services.environment.mathematics import mathematics
from services.environment.sort_characters import sort_characters


async def test_sort_characters_wants_the_sorted_prompt_and_an_end() -> None:
    prompt = (Message("user", "c3faz0"),)
    assert await sort_characters.score(Sample("1", prompt, "03acfz")) == Scored(1.0, answer="03acfz")
    assert await sort_characters.score(Sample("1", prompt, "03acfz", "length")) == Scored(0.0, answer="03acfz")
    assert await sort_characters.score(Sample("1", prompt, "03acf")) == Scored(0.0, answer="03acf")
    assert await sort_characters.score(Sample("1", row={"prompt": "ba"}, completion="ab")) == Scored(1.0, answer="ab")
    assert isinstance(await sort_characters.score(Sample("1")), Invalid)


@given(st.integers(1, LEVELS), st.integers())
def test_the_demonstrated_solution_of_a_sum_is_right(level: int, seed: int) -> None:
    row = make_problem(random.Random(seed), level)
    answer = solution(*row["prompt"].split("+"))
    scored = arithmetic(Sample("1", completion=answer, row=row))
    assert scored == Scored(1.0, {"columns": 1.0}, row["answer"])
    wrong = Sample("1", completion=answer + "0", row=row)
    assert arithmetic(wrong).value == (1.0 if row["answer"] + "0" == row["answer"] else 0.0)


async def test_math_judges_equality_not_text() -> None:
    def sample(completion: str, answer: str) -> Sample:
        return Sample("1", completion=completion, row={"answer": answer})

    assert await mathematics.score(sample(r"so the answer is $\frac{2}{4}$", r"$\frac{1}{2}$")) == Scored(
        1.0, {"parsed": 1.0}, "equal to the row's"
    )
    wrong = await mathematics.score(sample("I think it is $3$", "4"))
    assert isinstance(wrong, Scored) and wrong.value == 0.0
    assert isinstance(await mathematics.score(Sample("1", completion="$1$")), Invalid)


async def test_format_matches_the_whole_completion() -> None:
    row = {"pattern": r"<think>.*</think>\d+"}
    assert await matches_format.score(Sample("1", completion="<think>a\nb</think>42", row=row)) == Scored(1.0)
    assert await matches_format.score(Sample("1", completion="x<think></think>42", row=row)) == Scored(0.0)
    assert isinstance(await matches_format.score(Sample("1", row={"pattern": "("})), Invalid)


@given(st.integers(-50, 50), st.integers(1, 200), st.integers(0, 9))
def test_bisection_earns_the_full_reward(low: int, width: int, seed: int) -> None:
    game, high = GuessNumber(), low + width
    game.reset({"low": low, "high": high}, seed)
    while True:
        guess = (low + high) // 2
        turn = game.step(Message("assistant", f"is it {guess}?"), "stop")
        if turn.done:
            break
        low, high = (guess + 1, high) if turn.messages[0].content == "higher" else (low, guess - 1)
    assert isinstance(turn.result, Scored) and turn.result.value == 1.0


def test_guessing_ends_and_refuses_bad_rows() -> None:
    game = GuessNumber()
    game.reset({}, 1)
    turns = [game.step(Message("assistant", "no idea"), "stop") for _ in range(game.max_turns)]
    assert [turn.done for turn in turns] == [False] * (game.max_turns - 1) + [True]
    assert isinstance(turns[-1].result, Scored) and turns[-1].result.value == 0.0
    with pytest.raises(BadRow):
        game.reset({"low": 5, "high": 1}, 1)


def test_the_catalogue_has_the_built_in_ones() -> None:
    assert {"sort_characters", "arithmetic", "math", "format", "python_tests"} <= set(catalogue.rewards())
    assert {"guess_number", "calculator", "python_code", "treasure_hunt"} <= set(catalogue.environments())
