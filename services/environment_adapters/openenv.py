"""`openenv:<url>`: an environment behind a server of OpenEnv, by the library's own client: reset, and steps of text.

The server's schema says which field of an action is text, and what of an observation is; settings `action` and
`observation` name another. The reward is the sum over the episode. A task's number is the seed of the reset.

Not mapped: actions of several required fields, tools over MCP, state, starting a container.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from openenv.core import GenericEnvClient

from penstock.sdk.environments import Environment, Turn
from penstock.sdk.samples import FinishReason, Message, Scored
from services.environment_adapters.tasks import seed_of
from services.environment_adapters.unknown import Unknown, check_known

SECONDS = 50.0
"""For an answer of the server: less than a turn may take (`penstock.sdk.environments.DEFAULT_SECONDS`)."""
MAX_TURNS = 100
SETTINGS = ("action", "observation")
BESIDE = ("done", "reward", "metadata")


class Episode(Environment):
    """One session of the server."""

    max_turns = MAX_TURNS
    url: ClassVar[str]
    action: ClassVar[str]
    observation: ClassVar[str | None]

    def reset(self, row: Mapping[str, Any], seed: int) -> list[Message]:
        # Its own loop in a thread of its own, which answers the server's pings while the model speaks.
        self._client = GenericEnvClient(base_url=self.url, message_timeout_s=SECONDS).sync()
        self._total = 0.0
        return [Message("user", self._shown(self._client.reset(seed=seed_of(row)).observation))]

    def step(self, action: Message, finish_reason: FinishReason) -> Turn:
        result = self._client.step({self.action: action.content})
        self._total += float(result.reward or 0.0)
        if result.done:
            return Turn((), True, Scored(self._total))
        return Turn([Message("user", self._shown(result.observation))], False, self._total)

    def close(self) -> None:
        if hasattr(self, "_client"):
            self._client.close()

    def _shown(self, seen: Mapping[str, Any]) -> str:
        if self.observation is not None:
            return str(seen[self.observation])
        return json.dumps({key: value for key, value in seen.items() if key not in BESIDE}, ensure_ascii=False)


def check(identity: str, settings: Mapping[str, Any]) -> None:
    """What can be known without the server. Raises Unknown."""
    parts = urlsplit(identity)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Unknown(f"{identity!r} is no URL of a server; write openenv:http://HOST:PORT")
    for name in settings:
        check_known("environment.settings of openenv", name, SETTINGS)


def made(identity: str, settings: Mapping[str, Any]) -> type[Episode]:
    """The environment of a server, which is asked for its schema. Raises Unknown, and OSError for one that is away."""
    check(identity, settings)
    with urllib.request.urlopen(f"{identity.rstrip('/')}/schema", timeout=SECONDS) as answer:  # noqa: S310 - checked
        schema = json.load(answer)
    action = settings.get("action") or _text_of(schema["action"])
    if action is None:
        fields = ", ".join(_own(schema["action"]))
        raise Unknown(f"{identity}: environment.settings.action must say which field of an action is text ({fields})")
    members = {"url": identity, "action": action, "summary": f"OpenEnv's {identity}."}
    members["observation"] = settings.get("observation") or _text_of(schema["observation"])
    return type("Episode", (Episode,), members)


def _own(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {name: about for name, about in schema.get("properties", {}).items() if name not in BESIDE}


def _text_of(schema: Mapping[str, Any]) -> str | None:
    """The one field that is text; None where there is none, or several."""
    texts = [name for name, about in _own(schema).items() if about.get("type") == "string"]
    return texts[0] if len(texts) == 1 else None
