"""The text game pays for the shortest way, describes what is there, and refuses rows it cannot lay out."""

import re

import hypothesis
import pytest
from hypothesis import strategies as st

from penstock.sdk import BadRow, Message, Scored, Turn
from services.environment.builtin.treasure_hunt import TreasureHunt


def say(game: TreasureHunt, command: str) -> Turn:
    return game.step(Message("assistant", f"I think I should {command}."), "stop")


def walk(here: tuple[int, int], to: tuple[int, int]) -> list[str]:
    across = ["go east"] * (to[0] - here[0]) + ["go west"] * (here[0] - to[0])
    return across + ["go south"] * (to[1] - here[1]) + ["go north"] * (here[1] - to[1])


@hypothesis.given(st.integers(1, 5), st.integers(2, 5), st.integers(0, 10**6), st.integers(0, 3))
@hypothesis.settings(max_examples=80, deadline=None)
def test_the_shortest_way_earns_exactly_1_and_no_way_earns_more(w: int, h: int, seed: int, wasted: int) -> None:
    game = TreasureHunt()
    game.reset({"width": w, "height": h}, seed)
    way = [*walk(game._here, game._key), "take key", *walk(game._key, game._chest), "open chest"]
    for command in ["dance"] * wasted + way[:-1]:
        turn = say(game, command)
        assert not turn.done and "Doors: " in turn.messages[0].content
    turn = say(game, way[-1])
    assert turn.done and isinstance(turn.result, Scored)
    assert turn.result.value == pytest.approx(len(way) / (len(way) + wasted))
    assert turn.result.components == {"turns": float(len(way) + wasted), "key": 1.0}


def test_what_is_seen_is_enough_to_play() -> None:
    """A player who reads only the descriptions finds key and chest: room by room, row after row."""
    game = TreasureHunt()
    seen, done = game.reset({"width": 3, "height": 2, "max_turns": 30}, 5)[0].content, False
    way = ["go west"] * 2 + ["go north"] + ["go east"] * 2 + ["go south"] + ["go west"] * 2
    for command in way * 2:
        for thing, act in (("a key", "take key"), ("a chest", "open chest")):
            if thing in seen and not done:
                turn = say(game, act)
                done, seen = turn.done, turn.messages[0].content if turn.messages else ""
        if done:
            break
        seen = say(game, command).messages[0].content
    assert done


def test_walls_locks_and_words_that_mean_nothing_cost_a_turn() -> None:
    game = TreasureHunt()
    game.reset({"width": 1, "height": 2, "max_turns": 8}, 0)
    answers = [say(game, c).messages[0].content for c in ("go east", "sing", "open chest")]
    assert answers[0].startswith("There is a wall.") and answers[1].startswith("That is no command.")
    assert re.match(r"The chest is locked.|There is no chest here.", answers[2])
    for _ in range(4):
        assert not say(game, "go east").done
    end = say(game, "go east")
    assert end.done and isinstance(end.result, Scored) and end.result.value == 0.0


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"width": 0}, "width must be a whole number from 1 to 10, not 0"),
        ({"height": "3"}, "height must be"),
        ({"width": True}, "width must be"),
        ({"width": 1, "height": 1}, "at least 2 rooms"),
        ({"width": 10, "height": 10, "max_turns": 3}, "the shortest way takes"),
    ],
)
def test_a_row_that_cannot_be_laid_out_is_refused(row: dict[str, object], words: str) -> None:
    with pytest.raises(BadRow, match=words):
        TreasureHunt().reset(row, 3)
