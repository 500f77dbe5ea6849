"""What the gateway costs a turn: 64 sessions of 8 turns by HTTP, against the same turns drawn as the rollout's own are.

Client, gateway and an engine that draws at no cost are one process, so that its CPU time is all there is; what stands
beside it is the same engine called for the same turns without the gateway, as a multi-turn episode calls it. The
difference is the gateway's: HTTP, JSON, the chat template, and the contexts.
"""

import argparse
import asyncio
import functools
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence

from penstock import rpc
from penstock.chat import ChatTokenizer
from penstock.common.v1.common_pb2 import Message
from penstock.recipes import Longest
from penstock.recipes.sections import Environment
from penstock.replicas.engines import Engines, engines
from penstock.testing.fake_engine import FakeEngine
from penstock.testing.fake_engine import serving as engines_serving
from penstock.tiny_model import make_model
from penstock.trajectories import TrajectoryBuilder
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.gateway.app import app
from services.gateway.http import serving
from services.gateway.session import Means
from services.gateway.sessions import Sessions
from tests.bench.report import Report

ASKED, SAID = "abc", "defghijkl"
SECONDS = 600.0


def task_of(number: int, tokens: int) -> pb.GroupTask:
    """Of one session: nobody shares a prompt's call with it."""
    task = pb.GroupTask(run="bench", group=f"g{number:08}", kind=pb.TASK_KIND_TRAIN, group_size=1)
    task.rollout.task.id, task.rollout.task.source = "rows/1", "agent"
    task.rollout.sampling.max_tokens = tokens
    task.rollout.sampling.temperature = task.rollout.sampling.top_p = 1
    return task


def key_of(round_: int, number: int) -> str:
    """Of a session, by round and number."""
    return f"{round_:04}-{number:027}"


async def by_http(url: str, key: str, turns: int, tokens: int) -> None:
    """An agent's conversation over one connection; answers of so many tokens at most."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    messages = [{"role": "user", "content": ASKED}]
    for _ in range(turns):
        body = json.dumps({"model": "policy", "messages": messages, "max_tokens": tokens}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answered = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answered.partition(b"content-length:")[2].split()[0])
        answer = json.loads(await reader.readexactly(length))
        if "choices" not in answer:
            raise RuntimeError(f"{url} refuses: {answer}")
        said = answer["choices"][0]["message"]
        messages += [{"role": "assistant", "content": said["content"]}, {"role": "user", "content": ASKED}]
    writer.close()


async def directly(replicas: Engines, chat: ChatTokenizer, task: pb.GroupTask, turns: int) -> None:
    """The same conversation as a multi-turn episode has it."""
    builder, history = TrajectoryBuilder(), [Message(role="user", content=ASKED)]
    builder.context("user", chat.render(history))
    for turn in range(turns):
        await replicas.complete(builder, task.group, task.rollout, task.rollout.sampling, time.monotonic() + SECONDS)
        if turn + 1 < turns:
            said = Message(role="assistant", content=chat.text(builder.completion))
            asked = Message(role="user", content=ASKED)
            builder.context("user", chat.after_turn([asked], last=builder.tokens[-1], history=history))
            history += [said, asked]


async def measured(sessions: int, one: Callable[[int], Awaitable[None]]) -> tuple[float, float]:
    """Seconds, and CPU seconds, of all sessions at once."""
    began, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for number in range(sessions):
            tasks.create_task(_held(one, number))
    return time.perf_counter() - began, time.process_time() - cpu


async def turns_by_http(url: str, keys: Sequence[str], turns: int, tokens: int, number: int) -> None:
    """The conversation of one of the sessions."""
    await by_http(url, keys[number], turns, tokens)


async def _directly(replicas: Engines, chat: ChatTokenizer, tokens: int, turns: int, number: int) -> None:
    await directly(replicas, chat, task_of(number, tokens), turns)


async def _held(one: Callable[[int], Awaitable[None]], number: int) -> None:
    await one(number)


async def main(args: argparse.Namespace) -> None:
    report = Report("gateway", vars(args))
    with tempfile.TemporaryDirectory() as folder:
        make_model(pathlib.Path(folder), hidden=32, layers=1, intermediate=64)
        chat, engine = ChatTokenizer(folder), FakeEngine()
        engine.answer = lambda prompt: [*chat.plain(SAID), chat.stop_token]
        async with (
            engines_serving(engine) as addresses,
            engines(addresses, rpc.Security(), 2, SECONDS) as replicas,
        ):
            environment = Environment(name="agent", agent=True, max_turns=args.turns)
            bound = Longest(1 << 20, "nothing", cut=False)
            means = Means("tiny", chat, replicas, environment, bound, 16, False)
            sessions = Sessions({"agent": {pb.TASK_KIND_TRAIN: means}})
            tokens = len(SAID) + 1
            async with serving(app(sessions), "127.0.0.1:0", rpc.Security()) as (scheme, at):
                own = functools.partial(_directly, replicas, chat, tokens, args.turns)
                both: dict[str, list[tuple[float, float]]] = {"gateway": [], "direct": []}
                for turn in range(args.rounds + 1):  # the first warms up
                    keys = [key_of(turn, number) for number in range(args.sessions)]
                    for number, key in enumerate(keys):
                        sessions.open(key, task_of(number, tokens), 0, SECONDS)
                    http = functools.partial(turns_by_http, f"{scheme}://{at}", keys, args.turns, tokens)
                    both["gateway"].append(await measured(args.sessions, http))
                    both["direct"].append(await measured(args.sessions, own))
                    for key in keys:
                        closed = await sessions.close(key)
                        assert len(closed.contexts) == 1 and closed.calls == args.turns
    calls = args.sessions * args.turns
    per_turn = {how: [1e3 * cpu / calls for _, cpu in times[1:]] for how, times in both.items()}
    for how, times in both.items():
        wall = statistics.median(wall for wall, _ in times[1:])
        report.add(how=how, turns=calls, cpu_ms=statistics.median(per_turn[how]), turns_per_second=calls / wall)
    added = statistics.median(a - b for a, b in zip(per_turn["gateway"], per_turn["direct"], strict=True))
    report.note(f"the gateway adds {added:.2f} ms of CPU to a turn, the client's own HTTP and JSON among it")
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=64, help="conversations at once")
    parser.add_argument("--turns", type=int, default=8, help="calls of each")
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(main(parser.parse_args()))
