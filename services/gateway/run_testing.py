"""Sessions over fake engines, and the HTTP side as a client meets it."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from penstock import rpc
from penstock.chat import ChatTokenizer
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.recipes import Longest
from penstock.recipes.sections import Environment
from penstock.replicas.engines import engines
from penstock.testing.fake_engine import FakeEngine
from penstock.testing.fake_engine import serving as engines_serving
from penstock.trajectories import from_float32s, from_int32s
from penstock.trajectory.v1 import trajectory_pb2
from services.gateway.app import app
from services.gateway.http import serving
from services.gateway.session import Means
from services.gateway.sessions import Sessions

ENVIRONMENT = Environment(name="agent", agent=True, tool_calls="hermes", max_turns=40)
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def task(**work: Any) -> trajectory_pb2.GroupTask:
    """A group of four, drawn at temperature 1."""
    made = trajectory_pb2.GroupTask(
        run="r", group="g00000001", kind=trajectory_pb2.TASK_KIND_TRAIN, group_size=4, seed=7
    )
    made.rollout.task.id, made.rollout.task.source = "rows/1", "agent"
    sampling = made.rollout.sampling
    sampling.max_tokens, sampling.temperature, sampling.top_p = 64, 1.0, 1.0
    for name, value in work.items():
        setattr(made.rollout, name, value)
    return made


@dataclass
class Door:
    """A gateway whose sessions draw from `engine`."""

    sessions: Sessions
    url: str
    engine: FakeEngine
    chat: ChatTokenizer

    def open(self, seconds: float = 60.0, **work: Any) -> str:
        """The key of a new session."""
        key = secrets.token_urlsafe(32)
        self.sessions.open(key, task(**work), 0, seconds)
        return key

    async def closed(self, key: str) -> pb.CloseSessionResponse:
        """What was drawn in a session."""
        return await self.sessions.close(key)

    def says(self, text: str) -> list[int]:
        """The tokens of an answer."""
        return [*self.chat.plain(text), self.chat.stop_token]

    async def post(self, path: str, body: Any, key: str, **headers: str) -> Reply:
        """A request by a client that knows nothing but HTTP. body: JSON, or bytes as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = [f"POST {path} HTTP/1.1", f"host: {host}", f"content-length: {len(raw)}", "connection: close"]
        lines += [f"authorization: Bearer {key}"] if key else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        try:
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
            await writer.drain()
            head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        return Reply(int(head.split()[1]), head.decode().lower(), rest)


@dataclass
class Reply:
    """An answer over HTTP."""

    status: int
    head: str
    raw: bytes

    @property
    def body(self) -> Any:
        """Its JSON."""
        return json.loads(self.raw)

    @property
    def error(self) -> Any:
        """Its error."""
        return self.body["error"]


@asynccontextmanager
async def door(
    chat: ChatTokenizer,
    engine: FakeEngine,
    *,
    environment: Environment = ENVIRONMENT,
    longest: int = 512,
    branches: int = 16,
    overrides: bool = False,
) -> AsyncIterator[Door]:
    """A gateway over one engine."""
    async with engines_serving(engine) as addresses, engines(addresses, rpc.Security(), 2, 5.0) as replicas:
        bound = Longest(longest, "generation.max_context", cut=False)
        means = Means("tiny", chat, replicas, environment, bound, branches, overrides)
        sessions = Sessions({"agent": {trajectory_pb2.TASK_KIND_TRAIN: means}})
        async with serving(app(sessions), "127.0.0.1:0", rpc.Security()) as (scheme, bound_to):
            yield Door(sessions, f"{scheme}://{bound_to}", engine, chat)


def trained(contexts: Sequence[Any]) -> list[tuple[tuple[int, ...], list[int], list[float], list[int]]]:
    """Of each stretch of trained tokens: all tokens before it, its tokens, log-probs and versions."""
    found = []
    for each in contexts:
        tokens, logprobs = from_int32s(each.tokens).tolist(), from_float32s(each.logprobs).tolist()
        steps = [0] * len(tokens)
        for segment in each.version_segments:
            steps[segment.first :] = [segment.version.step] * (len(tokens) - segment.first)
        for turn in each.turns:
            if turn.finish_reason and each.loss_mask[turn.start]:
                at = slice(turn.start, turn.end)
                assert set(each.loss_mask[at]) == {1}
                found.append((tuple(tokens[: turn.start]), tokens[at], logprobs[at], steps[at]))
    return found
