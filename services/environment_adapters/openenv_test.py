"""Against a server that OpenEnv's own library makes, over its own protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from openenv.core.env_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment as Theirs
from openenv.core.env_server.types import Action, Observation, State

from penstock.sdk.environments import Environment, Turn
from penstock.sdk.samples import Message, Scored
from services.environment_adapters.openenv import made
from services.environment_adapters.policy_testing import serving
from services.environment_adapters.unknown import Unknown


class Said(Action):
    text: str


class Heard(Observation):
    text: str = ""


class Counting(Theirs[Said, Heard, State]):
    """Wants the next number, three times."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Heard:
        self._next = (seed or 0) + 1
        self._turns = 0
        return Heard(text=f"after {self._next - 1}?")

    def step(self, action: Said, timeout_s: float | None = None, **_: Any) -> Heard:
        right = action.text == str(self._next)
        self._next, self._turns = self._next + 1, self._turns + 1
        return Heard(text=f"after {self._next - 1}?", reward=float(right), done=self._turns == 3)

    @property
    def state(self) -> State:
        return State()


def server() -> Any:
    return create_fastapi_app(Counting, Said, Heard, max_concurrent_envs=4)


def play(kind: type[Environment], number: int, says: list[str]) -> tuple[list[str], Turn]:
    episode = kind()
    heard = [each.content for each in episode.reset({"index": number}, 0)]
    for text in says:
        turn = episode.step(Message("assistant", text), "stop").checked()
        heard += [each.content for each in turn.messages]
    episode.close()
    return heard, turn


async def test_an_episode_is_played_by_the_seed_and_its_rewards_add_up() -> None:
    async with serving(server()) as url:
        kind = await asyncio.to_thread(made, url, {})
        heard, turn = await asyncio.to_thread(play, kind, 5, ["6", "x", "8"])
        assert heard == ["after 5?", "after 6?", "after 7?"]
        assert turn.done and turn.result == Scored(2.0)


async def test_two_episodes_are_two_sessions() -> None:
    async with serving(server()) as url:
        kind = await asyncio.to_thread(made, url, {})
        played = [asyncio.to_thread(play, kind, number, [f"{number + 1}"] * 3) for number in (1, 10)]
        assert [heard for heard, _ in await asyncio.gather(*played)] == [
            ["after 1?", "after 2?", "after 3?"],
            ["after 10?", "after 11?", "after 12?"],
        ]


async def test_a_server_whose_field_is_not_known_is_asked_for_by_name() -> None:
    class Two(Said):
        why: str = ""

    async with serving(create_fastapi_app(Counting, Two, Heard)) as url:
        with pytest.raises(Unknown, match=r"environment.settings.action must say which field .* \(text, why\)"):
            await asyncio.to_thread(made, url, {})
        kind = await asyncio.to_thread(made, url, {"action": "text"})
        _, turn = await asyncio.to_thread(play, kind, 5, ["6", "7", "8"])
        assert turn.result == Scored(3.0)


def test_a_server_that_is_away_and_what_is_no_url_are_said() -> None:
    with pytest.raises(OSError):
        made("http://127.0.0.1:9", {})
    with pytest.raises(Unknown, match="no URL of a server; write openenv:http://HOST:PORT"):
        made("somewhere", {})
