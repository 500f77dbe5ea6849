"""The HTTP side as clients of OpenAI's API meet it: answers, streams, errors, limits."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from penstock import rpc
from penstock.chat import ChatTokenizer
from penstock.recipes.sections import Environment
from penstock.testing.fake_engine import FakeEngine, Tokens
from penstock.trajectories import from_int32s
from penstock.trajectory.v1 import trajectory_pb2
from services.gateway.errors import KeyUnknown
from services.gateway.run_testing import TOOLS, Door, Reply, door, trained
from services.gateway.streaming import settled

STOP, LENGTH = trajectory_pb2.FINISH_REASON_STOP, trajectory_pb2.FINISH_REASON_LENGTH
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def asked(text: str = "cab", **fields: Any) -> dict[str, Any]:
    return {"model": "gpt", "messages": [{"role": "user", "content": text}], **fields}


def pieces(reply: Reply) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in reply.raw.decode().splitlines() if line.startswith("data: {")]


def written(gateway: Door, text: str, sizes: int = 1) -> list[Tokens]:
    """An engine's script for an answer: so many tokens a chunk."""
    tokens = gateway.says(text)
    chunks = [Tokens(tokens[at : at + sizes], step=3) for at in range(0, len(tokens), sizes)]
    chunks[-1].finish = STOP
    return chunks


async def test_an_answer_is_a_chat_completion_with_its_log_probs(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    async with door(chat, engine) as gateway:
        engine.answer = lambda prompt: gateway.says("abc")
        key = gateway.open()
        reply = await gateway.post(CHAT, asked(logprobs=True), key)
        again = await gateway.post(f"/s/{key}{CHAT}", asked(), "")
    assert (reply.status, again.status) == (200, 200)
    choice = reply.body["choices"][0]
    assert (reply.body["object"], reply.body["model"], choice["finish_reason"]) == ("chat.completion", "gpt", "stop")
    assert choice["message"]["content"] == "abc"
    assert [(e["token"], e["logprob"]) for e in choice["logprobs"]["content"]][:2] == [("a", -0.5), ("b", -0.5)]
    given = len(engine.prompts[0])
    assert reply.body["usage"] == {"prompt_tokens": given, "completion_tokens": 4, "total_tokens": given + 4}


@pytest.mark.parametrize("stop", [None, ["ef"], ["zz"]])
async def test_the_pieces_of_a_stream_are_the_answer_that_is_given_whole(
    stop: list[str] | None, chat: ChatTokenizer
) -> None:
    engine, text = FakeEngine(), "abcdefgh"
    async with door(chat, engine) as gateway:
        key = gateway.open()
        engine.script = [written(gateway, text), written(gateway, text)]  # type: ignore[list-item]
        streamed = await gateway.post(CHAT, asked(stream=True, stop=stop, stream_options={"include_usage": True}), key)
        whole = await gateway.post(CHAT, asked(stop=stop), key)
    *said, last, use = pieces(streamed)
    content = "".join(each["choices"][0]["delta"].get("content") or "" for each in said)
    assert content == whole.body["choices"][0]["message"]["content"] == ("abcd" if stop == ["ef"] else text)
    assert len(said) > 2, "as it was drawn"
    assert last["choices"][0]["finish_reason"] == "stop" and use["usage"] == whole.body["usage"]
    assert streamed.raw.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_what_may_be_the_beginning_of_a_stop_text_waits() -> None:
    rng = random.Random(1)
    for _ in range(300):
        text = "".join(rng.choices("ab\ufffd", k=8))
        stops = ["".join(rng.choices("ab", k=rng.randrange(1, 4)))]
        sent = [settled(text[:n], stops) for n in range(len(text) + 1)]
        assert all(b.startswith(a) for a, b in zip(sent, sent[1:], strict=False))


async def test_calls_are_read_and_go_on_from_the_tokens_that_were_drawn(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    call = 'so <tool_call>{"name": "add", "arguments": {"b": 2, "a": 1}}</tool_call>'
    async with door(chat, engine) as gateway:
        key = gateway.open()
        engine.script = [[Tokens(gateway.says(call), finish=STOP)], [Tokens(gateway.says("3"), finish=STOP)]]
        first = await gateway.post(CHAT, asked(tools=TOOLS), key)
        message = first.body["choices"][0]["message"]
        (said,) = message["tool_calls"]
        assert first.body["choices"][0]["finish_reason"] == "tool_calls"
        assert (message["content"], said["function"]["name"]) == ("so", "add")
        assert json.loads(said["function"]["arguments"]) == {"a": 1, "b": 2}
        said["function"]["arguments"] = '{"a":1,"b":2}'  # clients write JSON in their own way
        result = {"role": "tool", "tool_call_id": said["id"], "content": "3"}
        history = [{"role": "user", "content": [{"type": "text", "text": "cab"}]}, message, result]
        await gateway.post(CHAT, {"messages": history, "tools": TOOLS}, key)
        closed = await gateway.closed(key)
    (context,) = closed.contexts
    tokens = from_int32s(context.tokens).tolist()
    assert tokens[: len(engine.prompts[1])] == engine.prompts[1]
    assert engine.prompts[1][: len(engine.prompts[0])] == engine.prompts[0]
    assert [chat.text(drawn) for _, drawn, _, _ in trained([context])] == [call, "3"]


async def test_a_text_goes_on_from_the_tokens_that_were_drawn(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    async with door(chat, engine) as gateway:
        engine.answer = lambda prompt: chat.plain("xyz")
        key = gateway.open()
        first = await gateway.post(TEXT, {"prompt": "abc"}, key)
        assert first.body["choices"][0]["text"] == "xyz"
        await gateway.post(TEXT, {"prompt": "abcxyz12"}, key)
        (context,) = (await gateway.closed(key)).contexts
    assert chat.text(from_int32s(context.tokens).tolist()) == "abcxyz12xyz"
    assert context.loss_mask == bytes([0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1])


async def test_a_call_is_drawn_with_the_samples_versions_and_budget(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    async with door(chat, engine, longest=60) as gateway:
        engine.answer = lambda prompt: gateway.says("ok")
        key = gateway.open(min_step=5, pinned_step=7)
        await gateway.post(CHAT, asked(max_tokens=9), key)
        await gateway.post(CHAT, asked("a" * 40), key)
        full = await gateway.post(CHAT, asked("a" * 80), key)
        closed = await gateway.closed(key)
    assert [(r.min_step, r.pinned_step) for r in engine.requests] == [(5, 7)] * 2
    assert engine.requests[0].sampling.max_tokens == 9
    assert engine.requests[1].sampling.max_tokens == 60 - len(engine.prompts[1])
    assert (full.status, full.error["code"]) == (400, "context_length_exceeded")
    assert closed.truncated and closed.calls == 2


async def test_a_cut_that_the_agent_asked_for_does_not_truncate_the_sample(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    async with door(chat, engine) as gateway:
        engine.script = [[Tokens([7, 7], finish=LENGTH)], [Tokens([7] * 64, finish=LENGTH)]]
        key = gateway.open()
        short = await gateway.post(CHAT, asked(max_tokens=2), key)
        assert short.body["choices"][0]["finish_reason"] == "length"
        assert not gateway.sessions.of(key).truncated
        await gateway.post(CHAT, asked(), key)
        assert (await gateway.closed(key)).truncated


async def test_a_session_draws_no_more_calls_than_its_environment_allows(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    environment = Environment(name="agent", agent=True, max_turns=2)
    async with door(chat, engine, environment=environment) as gateway:
        key = gateway.open()
        replies = [await gateway.post(CHAT, asked(stream=streams), key) for streams in (False, True, False, True)]
        closed = await gateway.closed(key)
    assert [reply.status for reply in replies] == [200, 200, 429, 429], "also of streams, which have not begun"
    assert "2 calls (environment.max_turns)" in replies[2].error["message"]
    assert "x-should-retry: false" in replies[2].head and "x-should-retry: false" in replies[3].head
    assert closed.truncated and closed.calls == 2


async def test_a_session_of_too_many_branches_draws_no_more(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    async with door(chat, engine, branches=2) as gateway:
        key = gateway.open()
        replies = [await gateway.post(CHAT, asked(word), key) for word in ("a", "b", "c", "d")]
        closed = await gateway.closed(key)
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert "rollout.max_branches" in replies[3].error["message"] and len(closed.contexts) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.2),
        ("top_p", 0.5),
        ("top_k", 5),
        ("presence_penalty", 1),
        ("logit_bias", {"5": 1}),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
    ],
)
async def test_another_distribution_is_refused_or_overridden(field: str, value: Any, chat: ChatTokenizer) -> None:
    async with door(chat, FakeEngine()) as refusing, door(chat, FakeEngine(), overrides=True) as overriding:
        refused = await refusing.post(CHAT, asked(**{field: value}), refusing.open())
        overridden = await overriding.post(CHAT, asked(**{field: value}), overriding.open())
    assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "sampling_fixed", field)
    assert overridden.status == 200 and f"x-penstock-overridden: {field}" in overridden.head
    assert overriding.engine.requests[0].sampling.temperature == 1.0


async def test_the_runs_own_sampling_is_no_other_one(chat: ChatTokenizer) -> None:
    async with door(chat, FakeEngine()) as gateway:
        same = asked(temperature=1, top_p=1.0, top_k=-1, presence_penalty=0, n=1, seed=3, user="me", tool_choice="auto")
        assert (await gateway.post(CHAT, same, gateway.open())).status == 200


async def test_a_key_opens_its_own_session_alone_until_it_was_closed_or_its_time_is_over(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    async with door(chat, engine) as gateway:
        one, other, short = gateway.open(), gateway.open(), gateway.open(seconds=0.0)
        await gateway.post(CHAT, asked("a"), one)
        await gateway.post(CHAT, asked("b"), other)
        closed = await gateway.closed(one)
        assert closed == await gateway.closed(one), "a caller that lost the answer asks again"
        assert [chat.text(from_int32s(c.tokens)[1:2].tolist()) for c in closed.contexts] == ["a"]
        async with asyncio.timeout(5):
            while True:
                try:
                    gateway.sessions.of(short)
                except KeyUnknown:
                    break
                await asyncio.sleep(0)
        for key in (one, short, "x" * 43, ""):
            for path in (CHAT, TEXT):
                reply = await gateway.post(path, asked(), key)
                assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        with pytest.raises(rpc.Abort, match="no such session"):
            await gateway.closed(short)


async def test_engines_that_fail_fail_the_sample(chat: ChatTokenizer) -> None:
    engine = FakeEngine(script=[[rpc.invalid_argument("no", rpc.Violation("sampling", "no"))]])
    async with door(chat, engine) as gateway:
        key = gateway.open()
        first, second = [await gateway.post(CHAT, asked(), key) for _ in range(2)]
        closed = await gateway.closed(key)
    assert (first.status, first.error["code"], second.status) == (503, "generation_failed", 503)
    assert len(engine.requests) == 1 and closed.failure and not closed.contexts


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b"\xff\xfe",
        {},
        {"messages": []},
        {"messages": {"role": "user"}},
        {"messages": [{"role": "wizard", "content": "a"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": 5}]}]},
        asked(n=2),
        asked(max_tokens=0),
        asked(max_tokens="many"),
        asked(temperature="hot"),
        asked(stop=[""]),
        asked(stop=["a"] * 5),
        asked(tools="add"),
        asked(top_logprobs=3),
        {"messages": [{"role": [], "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": 5, "text": "a"}]}]},
        {"messages": [{"role": "user", "content": "a", "tool_calls": 5}]},
        b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1' + b"0" * 400 + b"}",
        b'{"messages": [{"role": "user", "content": "a"}], "metadata": {"a": NaN}}',
    ],
)
async def test_whatever_is_sent_the_answer_is_of_openais_shape(body: Any, chat: ChatTokenizer) -> None:
    async with door(chat, FakeEngine()) as gateway:
        reply = await gateway.post(CHAT, body, gateway.open())
        assert reply.status == 400 and set(reply.error) == {"message", "type", "param", "code"}, reply.raw
        lost = await gateway.post("/v1/nothing", body, gateway.open())
        assert lost.status == 404 and lost.error["code"] == "not_found"


async def test_half_a_surrogate_pair_is_a_question_mark(chat: ChatTokenizer) -> None:
    async with door(chat, FakeEngine()) as gateway:
        reply = await gateway.post(CHAT, b'{"messages": [{"role": "user", "content": "a\\ud800"}]}', gateway.open())
        assert reply.status == 200
