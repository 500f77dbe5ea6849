"""OpenAI's own client, unmodified, against the gateway: two variables, and it works."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from penstock.chat import ChatTokenizer
from penstock.testing.fake_engine import FakeEngine, Step, Tokens
from penstock.trajectory.v1 import trajectory_pb2
from services.gateway.run_testing import TOOLS, door, trained

STOP = trajectory_pb2.FINISH_REASON_STOP
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'


def client(url: str, key: str, **how: object) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, **how)  # type: ignore[arg-type]


async def test_a_tool_using_agent_in_a_few_lines(chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    async with door(chat, engine) as gateway:
        key = gateway.open()
        monkeypatch.setenv("OPENAI_BASE_URL", f"{gateway.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", key)
        engine.script = [[Tokens(gateway.says(text), finish=STOP)] for text in (CALL, "3")]
        async with openai.AsyncOpenAI() as policy:
            messages: list = [{"role": "system", "content": "add"}, {"role": "user", "content": "1 + 2"}]  # type: ignore[type-arg]
            while True:
                answer = await policy.chat.completions.create(model="gpt-4o", messages=messages, tools=TOOLS)  # type: ignore[arg-type]
                message = answer.choices[0].message
                messages.append(message)
                if not message.tool_calls:
                    break
                for call in message.tool_calls:
                    assert call.type == "function"
                    given = json.loads(call.function.arguments)
                    result = str(given["a"] + given["b"])
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
            assert message.content == "3"
            assert [model.id async for model in await policy.models.list()] == ["tiny"]
        closed = await gateway.closed(key)
    (context,) = closed.contexts
    assert [chat.text(drawn) for _, drawn, _, _ in trained([context])] == [CALL, "3"]
    assert engine.prompts[1][: len(engine.prompts[0]) + len(chat.plain(CALL)) + 1] == [
        *engine.prompts[0],
        *gateway.says(CALL),
    ]


async def test_a_stream_is_read(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    async with door(chat, engine) as gateway:
        key = gateway.open()
        engine.script = [[Tokens(chat.plain("ab")), Tokens(gateway.says("cd"), finish=STOP)]]
        async with client(gateway.url, key) as policy:
            stream = await policy.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "x"}], stream=True
            )
            text = "".join([piece.choices[0].delta.content or "" async for piece in stream])
    assert text == "abcd"


async def test_a_stream_that_is_left_leaves_no_trace(chat: ChatTokenizer) -> None:
    engine, never = FakeEngine(), asyncio.Event()
    async with door(chat, engine) as gateway:
        key = gateway.open()
        script: list[Step] = [Tokens(chat.plain("ab")), never]
        engine.script = [script, [Tokens(gateway.says("z"), finish=STOP)]]
        async with client(gateway.url, key) as policy:
            stream = await policy.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "x"}], stream=True
            )
            async for piece in stream:
                if piece.choices[0].delta.content:
                    break
            await stream.close()
            async with asyncio.timeout(10):
                while gateway.sessions.of(key).running:
                    await asyncio.sleep(0)
            await policy.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        closed = await gateway.closed(key)
    assert [chat.text(drawn) for _, drawn, _, _ in trained(closed.contexts)] == ["z"]


async def test_the_clients_own_retry_is_drawn_once_or_anew_but_never_trained_twice(chat: ChatTokenizer) -> None:
    """The first answer takes longer than the client waits; it asks again by itself."""
    engine, never = FakeEngine(), asyncio.Event()
    async with door(chat, engine) as gateway:
        key = gateway.open()
        script: list[Step] = [Tokens(chat.plain("ab")), never]
        engine.script = [script, [Tokens(gateway.says("cd"), finish=STOP)]]
        async with client(gateway.url, key, timeout=0.5, max_retries=2) as policy:
            answer = await policy.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        closed = await gateway.closed(key)
    assert answer.choices[0].message.content == "cd"
    assert [chat.text(drawn) for _, drawn, _, _ in trained(closed.contexts)] == ["cd"]


async def test_errors_are_the_clients_own(chat: ChatTokenizer) -> None:
    async with door(chat, FakeEngine()) as gateway:
        async with client(gateway.url, "no-such-key") as stranger:
            with pytest.raises(openai.AuthenticationError, match="of no open session"):
                await stranger.models.list()
        async with client(gateway.url, gateway.open()) as policy:
            with pytest.raises(openai.BadRequestError, match="temperature is 0.1, and the run draws with 1"):
                await policy.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "x"}], temperature=0.1
                )
            with pytest.raises(openai.NotFoundError):
                await policy.embeddings.create(model="m", input="x")


async def test_the_responses_api_goes_on_from_the_tokens_that_were_drawn(chat: ChatTokenizer) -> None:
    """As OpenAI's Agents SDK calls it: what was said comes back as items."""
    engine = FakeEngine()
    tool = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}
    async with door(chat, engine) as gateway:
        key = gateway.open()
        engine.script = [[Tokens(gateway.says(text), finish=STOP)] for text in (f"so {CALL}", "3")]
        async with client(gateway.url, key) as policy:
            items: list[Any] = [{"role": "user", "content": "1 + 2"}]
            first = await policy.responses.create(model="m", instructions="add", input=items, tools=[tool])  # type: ignore[list-item]
            assert [item.type for item in first.output] == ["message", "function_call"]
            call = first.output[1]
            assert call.type == "function_call" and json.loads(call.arguments) == {"a": 1, "b": 2}
            items += [item.model_dump(exclude_none=True) for item in first.output]
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": "3"})
            second = await policy.responses.create(model="m", instructions="add", input=items, tools=[tool])  # type: ignore[list-item]
            assert second.output_text == "3" and second.status == "completed"
            with pytest.raises(openai.BadRequestError, match="previous_response_id"):
                await policy.responses.create(model="m", input="x", previous_response_id=first.id)
            with pytest.raises(openai.BadRequestError, match="response_format can be text"):
                form: Any = {"format": {"type": "json_object"}}
                await policy.responses.create(model="m", input="x", text=form)
        closed = await gateway.closed(key)
    (context,) = closed.contexts
    assert [chat.text(drawn) for _, drawn, _, _ in trained([context])] == [f"so {CALL}", "3"]


async def test_a_text_is_completed(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    async with door(chat, engine) as gateway:
        engine.answer = lambda prompt: gateway.says("yz")
        async with client(gateway.url, gateway.open()) as policy:
            answer = await policy.completions.create(model="m", prompt="wx", max_tokens=5)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("yz", "stop")
