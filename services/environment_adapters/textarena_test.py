"""Against the library: a game of one player, won and lost."""

import re

import pytest

from penstock.sdk.samples import Message, Scored
from services.environment_adapters.textarena import made
from services.environment_adapters.unknown import Unknown


def test_a_number_is_guessed_by_what_the_game_says() -> None:
    game = made("GuessTheNumber-v0", {"max_number": 8})()
    (asked,) = game.reset({"index": 3}, 0)
    assert "between 1 and 8" in asked.content
    low, high, turns = 1, 8, 0
    while True:
        guess, turns = (low + high) // 2, turns + 1
        turn = game.step(Message("assistant", f"[{guess}]"), "stop").checked()
        if turn.done:
            break
        (told,) = turn.messages
        assert turn.result == Scored(0.0) and f"[{guess}]" not in told.content, "the model knows what it said"
        found = re.search("higher|lower", told.content)
        assert found is not None
        low, high = (guess + 1, high) if found[0] == "higher" else (low, guess - 1)
    assert turns <= 4 and turn.result == Scored(1.0, {"bad_move": 0.0})


def test_a_game_that_is_lost_has_its_own_reward() -> None:
    game = made("GuessTheNumber-v0", {})()
    game.reset({"index": 3}, 0)
    turn = game.step(Message("assistant", "no"), "stop").checked()
    assert "invalid move" in turn.messages[0].content
    turn = game.step(Message("assistant", "no"), "stop").checked()
    assert turn.done and isinstance(turn.result, Scored) and turn.result.components == {"bad_move": 1.0}


def test_a_tasks_number_sets_the_game_up() -> None:
    def target(number: int) -> int:
        game = made("GuessTheNumber-v0", {})()
        game.reset({"index": number}, 0)
        return int(game._game.state.game_state["game_number"])

    assert [target(n) for n in range(8)] == [target(n) for n in range(8)] and len({target(n) for n in range(8)}) > 1


@pytest.mark.parametrize(
    ("name", "words"),
    [("GuessNumber-v0", r"did you mean GuessTheNumber-v0\?"), ("TicTacToe-v0", "cannot be played by one player")],
)
def test_what_cannot_be_played_is_said(name: str, words: str) -> None:
    with pytest.raises(Unknown, match=words):
        made(name, {})
