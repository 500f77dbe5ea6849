"""Samples that agents play, over a real gateway: what was drawn is the sample, and every end is typed."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import openai
import pytest

from penstock import rpc
from penstock.bus.embedded import free_ports
from penstock.chat import ChatTokenizer
from penstock.environment.v1 import environment_pb2_grpc
from penstock.gateway.v1 import gateway_pb2_grpc
from penstock.recipes import Longest
from penstock.recipes.sections import Environment
from penstock.replicas.engines import engines
from penstock.replicas.pool import Pool
from penstock.sdk import Endpoint, Invalid, Scored, Task, agent
from penstock.sdk.serving import add_services
from penstock.testing.fake_engine import FakeEngine, Step, Tokens, serving
from penstock.trajectories import TrajectoryError, check_trajectory, contexts, from_int32s, trained_tokens
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.environment.builtin.sorting_agent import sorting_agent
from services.gateway.app import app
from services.gateway.http import serving as http_serving
from services.gateway.server import GatewayService
from services.gateway.session import Means
from services.gateway.sessions import Sessions
from services.rollout import agents as agents_module
from services.rollout.episode import play
from services.rollout.scoring import scoring
from services.rollout.tools import Gate, Place, Tools

BEGUN: list[Step] = [Tokens([7], finish=pb.FINISH_REASON_LENGTH)]
"""What the engine draws before an agent begins."""
COMPLETED, FAILED = pb.Outcome.STATUS_COMPLETED, pb.Outcome.STATUS_FAILED


def say(endpoint: Endpoint, *messages: str) -> str:
    """What the policy answers to messages of user and assistant in turn."""
    roles = ("user", "assistant")
    said = [{"role": roles[i % 2], "content": text} for i, text in enumerate(messages)]
    headers = {"authorization": f"Bearer {endpoint.key}"}
    body = json.dumps({"messages": said}).encode()
    request = urllib.request.Request(f"{endpoint.base_url}/chat/completions", body, headers)
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


@agent(client="endpoint")
def several(task: Task, endpoint: Endpoint) -> Scored:
    first = say(endpoint, "a")
    second = say(endpoint, "a", first, "b")
    say(endpoint, "sub-agent")
    say(endpoint, "a", first, "c")
    return Scored(0.5, {"part": 1.0}, answer=second)


@agent(client="endpoint")
async def stepwise(task: Task, endpoint: Endpoint) -> Scored:
    """Knows what each of its answers was worth."""
    client = openai.AsyncOpenAI(base_url=endpoint.base_url, api_key=endpoint.key)
    asked: list[list[Any]] = [[{"role": "user", "content": word}] for word in "abc"]
    async with client:
        answers = [await client.chat.completions.create(model="m", messages=each) for each in asked]
    earned = {answers[0].id: 0.25, answers[2].id: 0.5}
    return Scored(0.75, rewards=earned if task.row["prompt"] == "cab" else {"chatcmpl-0": 1.0})


@agent(client="endpoint")
def silent(task: Task, endpoint: Endpoint) -> float:
    return 1.0


@agent(client="endpoint")
def broken(task: Task, endpoint: Endpoint) -> float:
    say(endpoint, "a")
    raise RuntimeError("no way")


@agent(client="endpoint")
def unsure(task: Task, endpoint: Endpoint) -> Invalid:
    say(endpoint, "a")
    return Invalid("who can tell")


@agent(client="endpoint")
def many(task: Task, endpoint: Endpoint) -> float:
    for word in "abcde":
        say(endpoint, word)
    return 1.0


@agent(client="endpoint")
def stubborn(task: Task, endpoint: Endpoint) -> float:
    """Has its reward whatever the model says."""
    try:
        say(endpoint, "a")
    except OSError:
        return 1.0
    return 1.0


@agent(client="endpoint")
async def slow(task: Task, endpoint: Endpoint) -> float:
    await asyncio.Event().wait()
    return 1.0


def task_of(name: str) -> pb.GroupTask:
    task = pb.GroupTask(run="r", group="g00000001", kind=pb.TASK_KIND_TRAIN, group_size=2, seed=5)
    task.rollout.task.id, task.rollout.task.environment, task.rollout.task.source = "rows/1", name, "agents"
    task.rollout.sampling.max_tokens = 16
    task.rollout.sampling.temperature = task.rollout.sampling.top_p = 1
    return task


Playing = Callable[..., Any]


@asynccontextmanager
async def run_of(chat: ChatTokenizer, engine: FakeEngine, most: int = 16, gone: int = 0) -> AsyncIterator[Playing]:
    """Plays a sample of an agent by its name. gone: gateways beside the one that is there."""
    environment = Environment(name="agents", agent=True)
    bound = Longest(256, "generation.max_context", cut=False)
    async with AsyncExitStack() as stack:
        addresses = await stack.enter_async_context(serving(engine))
        replicas = await stack.enter_async_context(engines(addresses, rpc.Security(), 2, 5.0))
        means = Means("m", chat, replicas, environment, bound, most, False)
        sessions = Sessions({"agents": {pb.TASK_KIND_TRAIN: means}})
        scheme, at = await stack.enter_async_context(http_serving(app(sessions), "127.0.0.1:0", rpc.Security()))
        server = await stack.enter_async_context(rpc.Server("gateway"))
        server.add(gateway_pb2_grpc.add_GatewayServiceServicer_to_server, GatewayService(sessions, f"{scheme}://{at}"))
        add_services(server, [], [], [several, stepwise, silent, broken, unsure, many, stubborn, slow, sorting_agent])
        await server.start()
        channel = await stack.enter_async_context(rpc.channel(server.address))
        scores = await stack.enter_async_context(scoring([], [server.address], rpc.Security(), {}, {}, 0.0))
        places = Pool(
            [
                Place(
                    server.address,
                    environment_pb2_grpc.EnvironmentServiceStub(channel),
                    environment_pb2_grpc.AgentServiceStub(channel),
                )
            ]
        )
        gates = [Gate(server.address, gateway_pb2_grpc.GatewayServiceStub(channel))]
        for port in free_ports(gone):
            nobody = await stack.enter_async_context(rpc.channel(f"127.0.0.1:{port}"))
            gates.append(Gate(f"127.0.0.1:{port}", gateway_pb2_grpc.GatewayServiceStub(nobody)))
        gateways = Pool(gates)
        tools = Tools(
            "m", chat, replicas, scores, environment, bound, bound, places, gateways=gateways, most_branches=most
        )

        async def playing(
            name: str, seconds: float = 20.0, group: str = "g00000001", row: dict[str, str] | None = None
        ) -> pb.Trajectory:
            task = task_of(name)
            task.rollout.task.row_json = json.dumps(row or {"prompt": "cab"})
            task.group = group
            return await play(tools, task, 1, time.monotonic() + seconds)

        yield playing


async def test_what_an_agent_drew_is_the_sample_with_its_branches(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    engine.answer = lambda prompt: [*chat.plain("ok"), chat.stop_token]
    async with run_of(chat, engine) as playing:
        t = await playing("several")
    check_trajectory(t)
    assert (t.outcome.status, t.reward, t.answer, t.engine) == (COMPLETED, 0.5, "ok", engine.address)
    assert {c.name: c.value for c in t.components} == {"several": 0.5, "several.part": 1.0}
    texts = [chat.text(from_int32s(each.tokens).tolist()) for each in contexts(t)]
    assert texts == ["aokbok", "sub-agentok", "aokcok"]
    assert trained_tokens(t) == 4 * 3, "four answers of two letters and an end, each once"
    assert (t.index, t.seed, t.source) == (1, 6, "agents")


@pytest.mark.parametrize(
    ("name", "failure", "why"),
    [
        ("silent", pb.Outcome.FAILURE_ENVIRONMENT, "without an answer of the model"),
        ("broken", pb.Outcome.FAILURE_ENVIRONMENT, "broken raised"),
        ("unsure", pb.Outcome.FAILURE_REWARD, "who can tell"),
        ("many", pb.Outcome.FAILURE_INVALID, "rollout.max_branches is 4"),
        ("nobody", pb.Outcome.FAILURE_ENVIRONMENT, "no agent 'nobody'"),
    ],
)
async def test_an_agent_without_a_sound_end_has_failed_with_its_type(
    name: str, failure: pb.Outcome.Failure, why: str, chat: ChatTokenizer
) -> None:
    async with run_of(chat, FakeEngine(), most=4) as playing:
        t = await playing(name)
    assert (t.outcome.status, t.outcome.failure) == (FAILED, failure) and why in t.outcome.detail
    assert not t.HasField("reward") and not t.branches


async def test_what_answers_earned_is_that_of_their_contexts(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    engine.answer = lambda prompt: [*chat.plain("ok"), chat.stop_token]
    async with run_of(chat, engine) as playing:
        t = await playing("stepwise")
        check_trajectory(t)
        assert (t.reward, list(t.branch_rewards), len(t.branches)) == (0.75, [0.25, 0.0, 0.5], 2)
        wrong = await playing("stepwise", row={"prompt": "x"})
    assert wrong.outcome.failure == pb.Outcome.FAILURE_ENVIRONMENT
    assert "'chatcmpl-0', which is no answer of this sample" in wrong.outcome.detail
    t.branch_rewards.append(1.0)
    with pytest.raises(TrajectoryError, match="4 branch_rewards; there must be one for each of 3 contexts"):
        check_trajectory(t)


async def test_engines_that_fail_fail_the_sample_whatever_its_agent_says(chat: ChatTokenizer) -> None:
    engine = FakeEngine(script=[BEGUN, [rpc.invalid_argument("no", rpc.Violation("sampling", "no"))]])
    async with run_of(chat, engine) as playing:
        t = await playing("stubborn")
    assert (t.outcome.status, t.outcome.failure) == (FAILED, pb.Outcome.FAILURE_GENERATION)


async def test_a_session_that_the_gateway_has_lost_fails_the_sample(
    chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restart of it."""

    async def lost(self: Sessions, key: str) -> Any:
        raise rpc.not_found("no such session", reason="NO_SESSION")

    monkeypatch.setattr(Sessions, "close", lost)
    async with run_of(chat, FakeEngine()) as playing:
        t = await playing("several")
    assert (t.outcome.status, t.outcome.failure) == (FAILED, pb.Outcome.FAILURE_GENERATION)
    assert "lost the session" in t.outcome.detail


async def test_another_gateway_is_asked_where_one_is_gone(chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever the sample would rather have."""
    monkeypatch.setattr(agents_module, "TURN_SECONDS", 0.2)
    asked: list[str] = []
    before = agents_module.gate_of

    async def noted(*args: Any) -> Gate:
        gate = await before(*args)
        asked.append(gate.address)
        return gate

    monkeypatch.setattr(agents_module, "gate_of", noted)
    async with run_of(chat, FakeEngine(), gone=3) as playing:
        for number in range(12):  # each has an order of its own in which it would ask the four
            assert (await playing("several", group=f"g{number:08d}")).outcome.status == COMPLETED
    assert len(set(asked)) > 1, "one of those that are gone comes first"


async def test_an_engine_that_dies_in_mid_episode_costs_nothing_but_time(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    stop = pb.FINISH_REASON_STOP
    async with run_of(chat, engine) as playing:
        engine.script = [
            BEGUN,
            [Tokens(chat.plain("ab"), step=3), rpc.unavailable("killed", reason="DEAD")],
            [Tokens([*chat.plain("c"), chat.stop_token], step=4, finish=stop)],
        ]
        t = await playing("sorting_agent")
    assert (t.reward, chat.text(from_int32s(t.tokens).tolist())) == (1.0, "cababc")
    assert [(s.first, s.version.step) for s in t.version_segments] == [(6, 3), (8, 4)]
    assert engine.prompts[2] == from_int32s(t.tokens).tolist()[:8]


async def test_an_agent_begins_when_an_engine_can_draw_for_it(chat: ChatTokenizer) -> None:
    """While it waits for a version it holds no worker, that others may need for the version to come."""
    engine, version = FakeEngine(), asyncio.Event()
    async with run_of(chat, engine) as playing:
        engine.script = [[version, *BEGUN]]
        waiting = asyncio.create_task(playing("several"))
        async with asyncio.timeout(10):
            while not engine.requests:
                await asyncio.sleep(0)
        assert engine.requests[0].sampling.max_tokens == 1 and (await playing("silent")).outcome.status == FAILED
        assert not waiting.done() and len(engine.requests) == 2, "the other one's agent began, and this one's did not"
        version.set()
        assert (await waiting).outcome.status == COMPLETED


async def test_engines_that_cannot_draw_for_it_fail_the_sample_before_its_agent_begins(chat: ChatTokenizer) -> None:
    engine = FakeEngine(script=[[rpc.failed_precondition("version 3 is gone", reason="PINNED")]])
    async with run_of(chat, engine) as playing:
        t = await playing("stubborn")
    assert (t.outcome.status, t.outcome.failure) == (FAILED, pb.Outcome.FAILURE_GENERATION)
    assert "version 3 is gone" in t.outcome.detail


async def test_an_agent_that_hangs_is_ended_with_its_group(chat: ChatTokenizer) -> None:
    async with run_of(chat, FakeEngine()) as playing:
        began = time.monotonic()
        t = await playing("slow", 0.5)
    assert (t.outcome.status, t.outcome.failure) == (FAILED, pb.Outcome.FAILURE_TIMEOUT)
    assert time.monotonic() - began < 10


async def test_the_agent_that_ships_asks_once_more_where_the_check_failed(chat: ChatTokenizer) -> None:
    engine, end = FakeEngine(), chat.stop_token
    stop = pb.FINISH_REASON_STOP
    async with run_of(chat, engine) as playing:
        engine.script = [
            BEGUN,
            [Tokens([*chat.plain("acb"), end], finish=stop)],
            [Tokens([*chat.plain("abc"), end], finish=stop)],
        ]
        t = await playing("sorting_agent")
    assert (t.reward, t.answer) == (1.0, "abc") and not t.branches
    assert {c.name: c.value for c in t.components} == {"sorting_agent": 1.0, "sorting_agent.first": 0.0}
    assert chat.text(from_int32s(t.tokens).tolist()) == "cabacb1abc"
