"""Against the library's own environments: a small lake, a card game, and one whose actions are text."""

from typing import Any

import gymnasium
import pytest
from gymnasium.spaces import Text

from penstock.sdk.environments import Environment, Turn
from penstock.sdk.samples import Message, Scored
from services.environment_adapters.gymnasium import made
from services.environment_adapters.unknown import Unknown

LAKE = {"is_slippery": False}


def step(episode: Environment, text: str) -> Turn:
    turn = episode.step(Message("assistant", text), "stop")
    assert isinstance(turn, Turn)
    return turn.checked()


def test_the_way_over_the_lake_is_drawn_and_rewarded() -> None:
    episode = made("FrozenLake-v1", LAKE)()
    (first,) = episode.reset({"index": 0}, 0)
    assert first.content == "[S]FFF\nFHFH\nFFFH\nHFFG\nAct with a number from 0 to 3."
    turn = step(episode, "I go down: 1")
    assert turn.messages[0].content == "(Down)\nSFFF\n[F]HFH\nFFFH\nHFFG".replace("(Down)", "  (Down)")
    for action in "12212":
        assert not turn.done
        turn = step(episode, action)
    assert turn.done and turn.result == Scored(1.0)
    episode.close()


def test_what_is_no_action_is_answered_and_changes_nothing() -> None:
    episode = made("FrozenLake-v1", LAKE)()
    episode.reset({"index": 0}, 0)
    for text in ("left", "7", "-1", "9" * 5000):
        turn = step(episode, text)
        assert turn.messages[0].content == "An action is a number from 0 to 3." and not turn.done
    assert "[F]HFH" in step(episode, "1").messages[0].content


def test_a_tasks_number_is_the_seed() -> None:
    kind, theirs = made("Blackjack-v1", {}), gymnasium.make("Blackjack-v1")
    for number in range(5):
        (first,) = kind().reset({"index": number}, 0)
        assert first.content.startswith(str(theirs.reset(seed=number)[0]))


class Echo(gymnasium.Env[str, str]):
    """Wants back what it said."""

    action_space = Text(8, charset="abc")
    observation_space = Text(8, charset="abc")

    def reset(self, **_: Any) -> tuple[str, dict[str, Any]]:
        return "abc", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "cba", float(action == "abc"), action == "cba", False, {}


def test_texts_are_observations_and_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        gymnasium.registry, "Echo-v0", gymnasium.envs.registration.EnvSpec("Echo-v0", lambda **_: Echo())
    )
    episode = made("Echo-v0", {"disable_env_checker": True})()
    assert episode.reset({"index": 0}, 0) == [Message("user", "abc")]
    assert step(episode, "xyz").messages[0].content == "An action is a text of 1 to 8 characters."
    assert step(episode, "abc").messages == (Message("user", "cba"),)
    last = step(episode, "cba")
    assert last.done and last.result == Scored(1.0), "rewards add up"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("FrozenLak-v1", {}, r"did you mean FrozenLake-v1\?"),
        ("Pendulum-v1", {}, "wants actions that are no text"),
        ("FrozenLake-v1", {"slippery": True}, "cannot be made with environment.settings"),
    ],
)
def test_what_cannot_be_played_is_said(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(Unknown, match=words):
        made(name, settings)
