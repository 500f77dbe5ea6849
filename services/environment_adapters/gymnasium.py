"""`gymnasium:<id>`: an environment whose actions are text, or numbers that a model can write.

What the model sees is the observation where that is text, else the environment's own drawing of itself (render mode
`ansi`), else the observation as Python prints it. The reward is the sum over the episode. Settings are the keywords of
`gymnasium.make`.

Not mapped: actions of several parts and continuous ones, images, vector environments, discounts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Discrete, Text

from penstock.sdk.environments import Environment, Turn
from penstock.sdk.samples import FinishReason, Message, Scored
from services.environment_adapters.tasks import seed_of
from services.environment_adapters.unknown import Unknown, check_known

MAX_TURNS = 100
_MARKED = re.compile(r"\x1b\[4\dm(.*?)\x1b\[0m", re.DOTALL)
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_NUMBER = re.compile(r"-?\d+")


class Episode(Environment):
    """One episode. `make`: opens the environment."""

    max_turns = MAX_TURNS
    make: ClassVar[Any]

    def reset(self, row: Mapping[str, Any], seed: int) -> list[Message]:
        self._env = type(self).make()
        self._total = 0.0
        seen, _ = self._env.reset(seed=seed_of(row))
        space = self._env.action_space
        how = "" if isinstance(space, Text) else f"\nAct with {_numbers(space)}."
        return [Message("user", self._shown(seen) + how)]

    def step(self, action: Message, finish_reason: FinishReason) -> Turn:
        """A text that is no action is answered with what one is, and takes a turn."""
        meant = _action(self._env.action_space, action.content)
        if meant is None:
            return Turn([Message("user", f"An action is {_numbers(self._env.action_space)}.")], False, self._total)
        seen, reward, ended, cut, _ = self._env.step(meant)
        self._total += float(reward)
        if ended or cut:
            return Turn((), True, Scored(self._total))
        return Turn([Message("user", self._shown(seen))], False, self._total)

    def close(self) -> None:
        if hasattr(self, "_env"):
            self._env.close()

    def _shown(self, seen: Any) -> str:
        if isinstance(seen, str):
            return seen
        drawn = self._env.render() if self._env.render_mode == "ansi" else None
        return _plain(drawn) if isinstance(drawn, str) else str(seen)


def _plain(drawn: str) -> str:
    """A drawing without a terminal's colours; what stood out stands in brackets."""
    return _ESCAPE.sub("", _MARKED.sub(r"[\1]", drawn)).strip("\n")


def _numbers(space: Any) -> str:
    if isinstance(space, Text):
        return f"a text of {space.min_length} to {space.max_length} characters"
    return f"a number from {space.start} to {space.start + space.n - 1}"


def _action(space: Any, said: str) -> Any:
    """The action that a text says: its last number, where actions are numbers; None where it says none."""
    if isinstance(space, Text):
        return said if space.contains(said) else None
    found = _NUMBER.findall(said)
    number = int(found[-1]) if found and len(found[-1]) < 10 else None
    return number if number is not None and space.contains(number) else None


def check(identity: str, settings: Mapping[str, Any]) -> None:
    """Raises Unknown."""
    check_known("environment of gymnasium", identity, gymnasium.registry)
    try:
        env = _opened(identity, settings)
    except (AttributeError, TypeError, ValueError, ImportError, gymnasium.error.Error) as error:
        raise Unknown(f"{identity} cannot be made with environment.settings: {error}") from error
    space = env.action_space
    env.close()
    if not isinstance(space, Discrete | Text):
        raise Unknown(f"{identity} wants actions that are no text: {space}; a model writes texts, or one number")


def made(identity: str, settings: Mapping[str, Any]) -> type[Episode]:
    """The environment of an ID. Raises Unknown."""
    check(identity, settings)
    make = staticmethod(lambda: _opened(identity, settings))
    return type("Episode", (Episode,), {"make": make, "summary": f"gymnasium's {identity}."})


def _opened(identity: str, settings: Mapping[str, Any]) -> Any:
    spec = gymnasium.spec(identity)
    creator: Any = spec.entry_point
    kind = load_env_creator(creator) if isinstance(creator, str) else creator
    modes = getattr(kind, "metadata", {})
    drawn = {"render_mode": "ansi"} if "ansi" in modes.get("render_modes", ()) else {}
    return gymnasium.make(identity, **{**drawn, **settings})
