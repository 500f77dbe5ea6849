"""`textarena:<id>`: a game of TextArena for one player. What the model sees is what the game tells it since its turn.

The reward is the game's own at its end, and 0 until then. Settings are the keywords of the game. A task's number is the
seed with which the game is set up.

Not mapped: games of several players, online play, observation wrappers (a conversation keeps what was said), and the
luck of the game after its beginning where episodes share a process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import textarena
from textarena.envs.registration import ENV_REGISTRY

from penstock.sdk.environments import Environment, Turn
from penstock.sdk.samples import FinishReason, Message, Scored
from services.environment_adapters.tasks import seed_of
from services.environment_adapters.unknown import Unknown, check_known

MAX_TURNS = 100
RAW = "-raw"
"""The version of each game without wrappers, which repeat the whole game in each observation."""


class Game(Environment):
    """One game. `make`: opens it."""

    max_turns = MAX_TURNS
    make: ClassVar[Any]

    def reset(self, row: Mapping[str, Any], seed: int) -> list[Message]:
        self._game = type(self).make()
        self._game.reset(num_players=1, seed=seed_of(row))
        return [Message("user", self._told())]

    def step(self, action: Message, finish_reason: FinishReason) -> Turn:
        done, _ = self._game.step(action=action.content)
        if not done:
            return Turn([Message("user", self._told())], False, 0.0)
        rewards, about = self._game.close()
        bad_move = bool(about.get(0, {}).get("invalid_move"))
        return Turn((), True, Scored(float(rewards[0]), {"bad_move": float(bad_move)}))

    def _told(self) -> str:
        _, told = self._game.get_observation()
        own = textarena.ObservationType.PLAYER_ACTION
        return "\n".join(text for _, text, kind in told if kind != own) or "Go on."


def check(identity: str, settings: Mapping[str, Any]) -> None:
    """Raises Unknown."""
    games = [name for name in ENV_REGISTRY if not name.endswith((RAW, "-train"))]
    check_known("game of textarena", identity, games)
    try:
        game = _opened(identity, settings)
        game.reset(num_players=1, seed=0)
    except (AssertionError, AttributeError, ImportError, KeyError, LookupError, TypeError, ValueError) as error:
        raise Unknown(f"{identity} cannot be played by one player with environment.settings: {error}") from error


def made(identity: str, settings: Mapping[str, Any]) -> type[Game]:
    """The environment of a game. Raises Unknown."""
    check(identity, settings)
    make = staticmethod(lambda: _opened(identity, settings))
    return type("Game", (Game,), {"make": make, "summary": f"textarena's {identity}."})


def _opened(identity: str, settings: Mapping[str, Any]) -> Any:
    return textarena.make(f"{identity}{RAW}", **settings)
