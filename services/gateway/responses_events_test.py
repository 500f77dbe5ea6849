"""A streamed `/v1/responses` by OpenAI's own client, and every event of it held against that client's types."""

from __future__ import annotations

import asyncio
import json
from typing import Any, get_args

import openai
import pytest
from openai.types.responses import ResponseStreamEvent

from penstock import rpc
from penstock.chat import ChatTokenizer
from penstock.testing.fake_engine import FakeEngine, Step, Tokens
from penstock.trajectory.v1 import trajectory_pb2
from services.gateway.run_testing import Door, door, trained

STOP, LENGTH = trajectory_pb2.FINISH_REASON_STOP, trajectory_pb2.FINISH_REASON_LENGTH
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}
OFFICIAL = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(ResponseStreamEvent)[0])
}
ITEM, PART, TEXT = "response.output_item", "response.content_part", "response.output_text"
ARGUMENTS = "response.function_call_arguments"


async def streamed(gateway: Door, key: str, **body: Any) -> list[dict[str, Any]]:
    """The events of one call, each as the official types have it, under its own name and number."""
    reply = await gateway.post("/v1/responses", {"model": "m", "stream": True, **body}, key)
    assert reply.status == 200 and "text/event-stream" in reply.head
    found: list[dict[str, Any]] = []
    for block in _whole(reply.raw).strip().split("\n\n"):
        name, data = block.split("\n")
        value = json.loads(data.removeprefix("data: "))
        OFFICIAL[value["type"]].model_validate(value)
        assert name == f"event: {value['type']}" and value["sequence_number"] == len(found)
        found.append(value)
    return found


def _whole(raw: bytes) -> str:
    """A body that came in chunks."""
    found = b""
    while raw:
        size, _, rest = raw.partition(b"\r\n")
        found, raw = found + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return found.decode()


async def test_every_event_is_one_of_the_official_clients_types_in_their_order(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    async with door(chat, engine) as gateway:
        engine.script = [[Tokens(chat.plain("ab")), Tokens(gateway.says("cd"), finish=STOP)]]
        text = await streamed(gateway, gateway.open(), input="x")
        engine.script = [[Tokens(gateway.says(f"so {CALL}"), finish=STOP)]]
        call = await streamed(gateway, gateway.open(), input="x", tools=[TOOL])
        engine.script = [[Tokens(chat.plain("ab"), finish=LENGTH)]]
        cut = await streamed(gateway, gateway.open(), input="x", max_output_tokens=2)
    begin, said = ["response.created", "response.in_progress"], [f"{TEXT}.done", f"{PART}.done", f"{ITEM}.done"]
    opened = [f"{ITEM}.added", f"{PART}.added"]
    kinds = [each["type"] for each in text if each["type"] != f"{TEXT}.delta"]
    assert kinds == [*begin, *opened, *said, "response.completed"]
    assert "".join(each["delta"] for each in text if each["type"] == f"{TEXT}.delta") == "abcd"
    arguments = [f"{ITEM}.added", f"{ARGUMENTS}.delta", f"{ARGUMENTS}.done", f"{ITEM}.done"]
    assert [each["type"] for each in call] == [
        *begin,
        *opened,
        f"{TEXT}.delta",
        *said,
        *arguments,
        "response.completed",
    ]
    assert [each.get("output_index") for each in call[2:-1]] == [0] * 6 + [1] * 4
    assert cut[-1]["type"] == "response.incomplete"
    assert cut[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_the_last_event_has_the_answer_that_is_given_whole(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    async with door(chat, engine) as gateway:
        key = gateway.open()
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key) as policy:
            engine.script = [[Tokens(gateway.says(text), finish=STOP)] for text in (f"so {CALL}", "3", f"so {CALL}")]
            items: list[Any] = [{"role": "user", "content": "1 + 2"}]
            how: Any = {"model": "m", "instructions": "add", "tools": [TOOL]}
            events = [each async for each in await policy.responses.create(input=items, stream=True, **how)]
            last = events[-1]
            assert last.type == "response.completed"
            done = [each.item for each in events if each.type == f"{ITEM}.done"]
            assert done == last.response.output and [item.type for item in done] == ["message", "function_call"]
            call = last.response.output[1]
            assert call.type == "function_call" and json.loads(call.arguments) == {"a": 1, "b": 2}
            items += [item.model_dump(exclude_none=True) for item in last.response.output]
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": "3"})
            async with policy.responses.stream(input=items, **how) as stream:  # the client's own accumulator
                final = await stream.get_final_response()
            assert (final.output_text, final.status) == ("3", "completed")
            whole = await policy.responses.create(input="2 + 1", **how)
        closed = await gateway.closed(key)
    assert [item.type for item in whole.output] == [item.type for item in last.response.output]
    assert whole.usage is not None and last.response.usage is not None
    assert whole.usage.output_tokens == last.response.usage.output_tokens == len(gateway.says(f"so {CALL}"))
    drawn = [chat.text(drawn) for _, drawn, _, _ in trained(closed.contexts)]
    assert drawn == [f"so {CALL}", "3", f"so {CALL}"], "the second turn goes on from the tokens of the first"
    assert len(closed.contexts) == 2


async def test_what_is_refused_has_its_status_before_a_stream_begins(chat: ChatTokenizer) -> None:
    async with door(chat, FakeEngine(), longest=4) as gateway:
        said: list[dict[str, Any]] = [{"input": "far too long for that"}, {"input": "x", "temperature": 0.1}]
        refused = [await gateway.post("/v1/responses", {"stream": True, **each}, gateway.open()) for each in said]
    assert [each.status for each in refused] == [400, 400]
    assert [each.error["code"] for each in refused] == ["context_length_exceeded", "sampling_fixed"]


async def test_an_answer_that_fails_while_it_is_drawn_is_an_error_of_the_stream(chat: ChatTokenizer) -> None:
    engine = FakeEngine(script=[[rpc.invalid_argument("no", rpc.Violation("sampling", "no"))]])
    async with door(chat, engine) as gateway:
        events = await streamed(gateway, gateway.open(), input="x")
    assert events[-1]["type"] == "error" and events[-1]["code"] == "generation_failed"


async def test_a_stream_that_is_left_leaves_no_trace(chat: ChatTokenizer) -> None:
    engine, never = FakeEngine(), asyncio.Event()
    async with door(chat, engine) as gateway:
        key = gateway.open()
        script: list[Step] = [Tokens(chat.plain("ab")), never]
        engine.script = [script, [Tokens(gateway.says("z"), finish=STOP)]]
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key) as policy:
            stream = await policy.responses.create(model="m", input="x", stream=True)
            async for each in stream:
                if each.type == f"{TEXT}.delta":
                    break
            await stream.close()
            async with asyncio.timeout(10):
                while gateway.sessions.of(key).running:
                    await asyncio.sleep(0)
            assert (await policy.responses.create(model="m", input="x")).output_text == "z"
        closed = await gateway.closed(key)
    assert [chat.text(drawn) for _, drawn, _, _ in trained(closed.contexts)] == ["z"]


@pytest.mark.parametrize("memory", ["previous_response_id", "conversation", "background"])
async def test_what_would_need_a_memory_is_refused_before_a_stream_begins(chat: ChatTokenizer, memory: str) -> None:
    async with door(chat, FakeEngine()) as gateway:
        reply = await gateway.post("/v1/responses", {"stream": True, "input": "x", memory: "m"}, gateway.open())
    assert reply.status == 400 and reply.error["param"] == memory
