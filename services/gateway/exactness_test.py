"""What is trained of an agent is what an engine sent, token by token, whatever becomes of its conversations."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock.chat import ChatTokenizer
from penstock.generation.v1 import generation_pb2
from penstock.testing.fake_engine import FakeEngine, Tokens
from penstock.trajectories import from_int32s
from penstock.trajectory.v1 import trajectory_pb2
from services.gateway.run_testing import TOOLS, Door, door, trained

LETTERS = "abcdefgh"
CALL = '<tool_call>{"name": "add", "arguments": {"a": %d}}</tool_call>'
Sent = tuple[tuple[int, ...], list[int], list[float], list[int]]


@dataclass
class Recorder(FakeEngine):
    """Draws what `says` gives, in chunks, with log-probs and versions of its own; remembers what it sent to the end."""

    says: Any = None
    sent: list[Sent] = field(default_factory=list)
    version: int = 0
    hold: asyncio.Event | None = None
    arrived: int = 0

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        hold, self.arrived = self.hold, self.arrived + 1
        prompt = from_int32s(request.prompt_tokens).tolist()
        tokens = self.says()[: request.sampling.max_tokens]
        rng = random.Random(str((prompt, tokens)))
        logprobs = [-rng.randrange(1, 64) / 16 for _ in tokens]
        steps = []
        for at in range(0, len(tokens), 3):
            self.version += rng.randrange(2)
            chunk = tokens[at : at + 3]
            steps += [self.version] * len(chunk)
            yield Tokens(chunk, self.version, logprobs=logprobs[at : at + 3]).response()
            if hold is not None:
                await hold.wait()
        self.sent.append((tuple(prompt), tokens, logprobs, steps))
        yield Tokens([], finish=trajectory_pb2.FINISH_REASON_STOP, segments=False).response()


class Agent:
    """Does what agents do to conversations, at random."""

    def __init__(self, gateway: Door, key: str, rng: random.Random) -> None:
        self.gateway, self.key, self.rng = gateway, key, rng
        self.histories: list[list[dict[str, Any]]] = [[{"role": "user", "content": "go"}]]
        self.whole = 0

    async def step(self) -> None:
        ways = [self.go_on, self.edited, self.sub_agent, self.parallel, self.retried, self.cut, self.streamed]
        await self.rng.choice(ways)()

    async def call(self, messages: list[dict[str, Any]], **headers: str) -> dict[str, Any]:
        body = {"model": "any", "messages": messages, "tools": TOOLS}
        reply = await self.gateway.post("/v1/chat/completions", body, self.key, **headers)
        assert reply.status == 200, reply.raw
        said: dict[str, Any] = reply.body["choices"][0]["message"]
        return said

    def next(self, messages: list[dict[str, Any]], said: dict[str, Any]) -> None:
        """The conversation goes on, as clients send it back."""
        kept = {k: v for k, v in said.items() if v is not None}
        answers = [
            {"role": "tool", "tool_call_id": each["id"], "content": self.word()}
            for each in said.get("tool_calls") or []
        ]
        self.histories.append([*messages, kept, *(answers or [{"role": "user", "content": self.word()}])])

    def word(self) -> str:
        return "".join(self.rng.choices(LETTERS, k=3))

    async def go_on(self) -> None:
        messages = self.rng.choice(self.histories)
        self.next(messages, await self.call(messages))
        self.whole += 1

    async def edited(self) -> None:
        messages = json.loads(json.dumps(self.rng.choice(self.histories)))
        at = self.rng.randrange(len(messages))
        messages[at]["content"] = self.word()
        self.next(messages, await self.call(messages))
        self.whole += 1

    async def sub_agent(self) -> None:
        messages = [{"role": "system", "content": self.word()}, {"role": "user", "content": self.word()}]
        self.next(messages, await self.call(messages))
        self.whole += 1

    async def parallel(self) -> None:
        messages = self.rng.choice(self.histories)
        for said in await asyncio.gather(*(self.call(messages) for _ in range(3))):
            self.next(messages, said)
        self.whole += 3

    async def retried(self) -> None:
        """The client lost the first answer, and asks with the same key."""
        messages, key = self.rng.choice(self.histories), self.word() + str(self.whole)
        first = await self.call(messages, idempotency_key=key)
        assert await self.call(messages, idempotency_key=key) == first
        self.next(messages, first)
        self.whole += 1

    async def streamed(self) -> None:
        messages = self.rng.choice(self.histories)
        body = {"model": "any", "messages": messages, "stream": True}
        reply = await self.gateway.post("/v1/chat/completions", body, self.key)
        pieces = [json.loads(line[6:]) for line in reply.raw.decode().splitlines() if line.startswith("data: {")]
        said = "".join(each["choices"][0]["delta"].get("content") or "" for each in pieces)
        self.next(messages, {"role": "assistant", "content": said})
        self.whole += 1

    async def cut(self) -> None:
        """The client goes away in the middle of an answer, streamed or not."""
        engine = self.gateway.engine
        assert isinstance(engine, Recorder)
        engine.hold = asyncio.Event()
        session, before = self.gateway.sessions.of(self.key), engine.arrived
        body = {"model": "any", "messages": self.rng.choice(self.histories), "stream": self.rng.random() < 0.5}
        call = asyncio.create_task(self.gateway.post("/v1/chat/completions", body, self.key))
        async with asyncio.timeout(10):
            while engine.arrived == before:  # what comes later is not held
                await asyncio.sleep(0)
            call.cancel()
            while session.running:
                await asyncio.sleep(0)
        engine.hold = None  # the engine's own call waits until it hears that it was cancelled


@pytest.mark.parametrize("seed", range(12))
async def test_every_trained_token_is_one_that_an_engine_sent_in_its_place(seed: int, chat: ChatTokenizer) -> None:
    rng = random.Random(seed)
    engine = Recorder()
    async with door(chat, engine, longest=4096, branches=200) as gateway:

        def says() -> list[int]:
            word = "".join(rng.choices(LETTERS, k=rng.randrange(9)))
            return gateway.says(CALL % rng.randrange(10) if rng.random() < 0.3 else word)

        engine.says = says
        agent = Agent(gateway, gateway.open(), rng)
        for _ in range(10):
            await agent.step()
        closed = await gateway.closed(agent.key)
    found = trained(closed.contexts)
    sent = list(engine.sent)
    for stretch in found:
        assert stretch in sent, "a trained stretch is one answer of an engine, behind the very tokens it was asked with"
        sent.remove(stretch)
    assert closed.calls == agent.whole == len(closed.answers), "and each answer is known by its id"
    assert set(closed.answers.values()) == set(range(len(closed.contexts))), "no context is without an answer"
    drawn = {(prompt, tuple(tokens)) for prompt, tokens, _, _ in engine.sent}
    assert {(prompt, tuple(tokens)) for prompt, tokens, _, _ in found} == drawn, "each answer that was given is trained"
