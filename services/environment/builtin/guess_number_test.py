import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.sdk import BadRow, Message, Scored
from services.environment.builtin.guess_number import GuessNumber


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
