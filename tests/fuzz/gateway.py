"""The gateway over real HTTP: requests that are almost right, clients that leave, and what did not withstand.

A process of its own is asked by raw sockets, in sessions as the rollout opens them. What must hold: whoever asks gets
an answer, a stream, or an error of OpenAI's shape; the process serves on; and whatever was asked in a session, what is
trained of it is what the engine drew, where it drew it.
"""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from penstock import rpc
from penstock.bus import EmbeddedServer, RunNames, connect, ensure_run
from penstock.chat import ChatTokenizer
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1 import gateway_pb2_grpc
from penstock.generation.v1 import generation_pb2
from penstock.supervisor.plan import launcher
from penstock.system.parent_death import mortal
from penstock.testing.fake_engine import FakeEngine, Tokens, serving
from penstock.tiny_model import make_model
from penstock.trajectories import from_int32s
from penstock.trajectory.v1 import trajectory_pb2
from tests.fuzz.hostile_json import body

NAMES = RunNames("fuzz-gateway")
SECONDS, START_SECONDS = 30.0, 90.0
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
ANSWERS = ("ab", "3", CALL, f"so {CALL}", "<tool_call>{", "a\nb", "0" * 40)
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
ASKED = [{"role": "system", "content": "add"}, {"role": "user", "content": "1 + 2"}]
FLAT = [{"type": "function", "name": "add", "parameters": {"type": "object"}}]
GOOD: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"model": "m", "messages": ASKED, "tools": TOOLS},
        {"model": "m", "messages": ASKED, "stream": True, "stream_options": {"include_usage": True}, "stop": ["b"]},
        {"model": "m", "messages": ASKED, "logprobs": True, "max_tokens": 5},
    ],
    "/v1/completions": [{"model": "m", "prompt": "ab", "max_tokens": 5, "logprobs": 1}],
    "/v1/responses": [
        {"model": "m", "input": "1 + 2", "instructions": "add", "tools": FLAT},
        {"model": "m", "input": ASKED[1:], "stream": True},
    ],
}


@dataclass
class Engine(FakeEngine):
    """Draws what the prompt decides, as many tokens as it may."""

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[generation_pb2.GenerateResponse]:  # noqa: N802
        prompt = from_int32s(request.prompt_tokens).tolist()
        whole = self.answer(prompt)
        drawn = whole[: request.sampling.max_tokens]
        ended = len(drawn) == len(whole)
        reason = trajectory_pb2.FINISH_REASON_STOP if ended else trajectory_pb2.FINISH_REASON_LENGTH
        half = len(drawn) // 2
        if half:
            yield Tokens(drawn[:half]).response()
        yield Tokens(drawn[half:], finish=reason).response()


@dataclass
class Attacked:
    """The gateway, and what was found. answered: calls that got an answer; held: answers that were held against the
    engine, being trained."""

    engine: Engine
    stub: Any
    process: asyncio.subprocess.Process
    log: pathlib.Path
    findings: list[str] = field(default_factory=list)
    answered: int = 0
    held: int = 0


@asynccontextmanager
async def gateway(folder: pathlib.Path) -> AsyncIterator[Attacked]:
    """A gateway's process for the block, over an engine that is here."""
    make_model(folder / "model", hidden=32, layers=1, intermediate=64)
    (folder / "train.jsonl").write_text('{"prompt": "ba"}\n')
    recipe = {
        "run": NAMES.run,
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "train.jsonl")},
        "environment": {"name": "sorting_agent", "agent": True, "tool_calls": "hermes", "max_turns": 64},
        "algorithm": {"steps": 1, "groups_per_step": 1, "group_size": 2},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    chat, engine, told = ChatTokenizer(folder / "model"), Engine(), folder / "address"
    engine.answer = lambda prompt: [*chat.plain(ANSWERS[sum(prompt) % len(ANSWERS)]), chat.stop_token]
    log = folder / "gateway.log"
    async with (
        serving(engine) as (address,),
        EmbeddedServer(folder / "nats", folder / "nats.log") as nats,
        connect(nats.url, name="fuzz", monitor_url=nats.monitor_url) as bus,
    ):
        await ensure_run(bus, NAMES)
        flags = ("--recipe", str(folder / "recipe.yaml"), "--nats", nats.url, "--generation", address)
        command = mortal([*launcher("gateway"), *flags, "--announce", str(told)], os.getpid())
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out, start_new_session=True)
        try:
            async with asyncio.timeout(START_SECONDS):
                while not told.exists():
                    assert process.returncode is None, log.read_text()[-2000:]
                    await asyncio.sleep(0.05)  # a file announces nothing
            async with rpc.channel(told.read_text(), default_seconds=SECONDS) as channel:
                yield Attacked(engine, gateway_pb2_grpc.GatewayServiceStub(channel), process, log)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def attack(at: Attacked, seed: int, sessions: int, calls: int) -> list[str]:
    """Asks in so many sessions, a few at a time; a sentence for each thing that did not withstand."""
    chance, numbers = random.Random(seed), iter(range(sessions))

    async def work() -> None:
        for _ in numbers:
            await _session(at, random.Random(chance.random()), calls)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(work())
    if at.process.returncode is not None:
        at.findings.append(f"the gateway ended with {at.process.returncode}: {at.log.read_text()[-2000:]}")
    faults = at.log.read_text().count("Traceback")
    return [*at.findings, *([f"{faults} faults: {at.log.read_text()[-3000:]}"] if faults else [])]


async def _session(at: Attacked, chance: random.Random, calls: int) -> None:
    """One session: asked good and bad things, then closed, and what is trained of it held against the engine."""
    task = trajectory_pb2.GroupTask(run=NAMES.run, group=f"g{chance.randrange(10**8):08d}", group_size=1)
    task.kind = trajectory_pb2.TASK_KIND_TRAIN
    task.rollout.task.id, task.rollout.task.source = "rows/1", "sorting_agent"
    task.rollout.sampling.max_tokens = 32
    task.rollout.sampling.temperature = task.rollout.sampling.top_p = 1.0
    request = pb.OpenSessionRequest(key=secrets.token_urlsafe(32), task=task)
    request.lifetime.FromSeconds(300)
    url = (await rpc.call(at.stub.OpenSession(request))).url
    for _ in range(calls):
        path = chance.choice(list(GOOD))
        sent = body(chance, chance.choice(GOOD[path]))
        key = request.key if chance.random() < 0.95 else chance.choice(("", "no-such-key", "\x7f", request.key[:-1]))
        try:
            async with asyncio.timeout(SECONDS):
                found = await _asked(at, url, path, key, sent, leaves=chance.random() < 0.1)
        except TimeoutError:
            found = "no answer"
        if found:
            at.findings.append(f"POST {path} {sent[:400]!r}: {found}")
    closed = await rpc.call(at.stub.CloseSession(pb.CloseSessionRequest(key=request.key)))
    for context in closed.contexts:
        tokens = from_int32s(context.tokens).tolist()
        for turn in context.turns:
            if turn.finish_reason and context.loss_mask[turn.start]:
                at.held += 1
                prompt, drawn = tokens[: turn.start], tokens[turn.start : turn.end]
                if drawn != at.engine.answer(prompt)[: len(drawn)]:
                    at.findings.append(f"{drawn} is trained behind {prompt}, and was not drawn there")


async def _asked(at: Attacked, url: str, path: str, key: str, sent: bytes, leaves: bool) -> str:
    """What is wrong with the answer to a request; nothing where it is one, or where the client left before it."""
    host, _, port = url.removeprefix("http://").partition("/")[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: Bearer {key}\r\n"
        writer.write(
            f"{head}content-length: {len(sent)}\r\n\r\n".encode() + (sent[: len(sent) // 2] if leaves else sent)
        )
        await writer.drain()
        if leaves:
            return ""
        answer = await reader.read()
    except ConnectionError:
        return "the connection broke"
    finally:
        writer.close()
    told, _, raw = answer.partition(b"\r\n\r\n")
    status = int(told.split()[1])
    at.answered += status == 200
    if b"text/event-stream" in told.lower():
        return "" if status == 200 else "a stream that is an error"
    return _wrong(status, raw)


def _wrong(status: int, raw: bytes) -> str:
    try:
        told = json.loads(raw)
    except ValueError:
        return f"status {status} with {raw[:200]!r}"
    if status == 200:
        return "" if "object" in told else f"an answer without an object: {told}"
    error = told.get("error") if isinstance(told, dict) else None
    if not isinstance(error, dict) or set(error) != {"message", "type", "param", "code"} or not 400 <= status < 600:
        return f"status {status} with {raw[:200]!r}"
    return f"a fault: {error}" if error["code"] == "internal_error" else ""
