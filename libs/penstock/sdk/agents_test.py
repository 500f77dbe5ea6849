"""`@agent`, where it runs, and the service that runs it: every run has one outcome, and no failure is a reward."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from penstock import rpc
from penstock.environment.v1 import environment_pb2 as pb
from penstock.environment.v1 import environment_pb2_grpc
from penstock.sdk import Endpoint, Invalid, Message, Scored, Task, agent, check_agent
from penstock.sdk.agents import AgentFailed, AgentHost
from penstock.sdk.hosting.isolation import load_agent
from penstock.sdk.hosting.worker_pool import Workers
from penstock.sdk.hosting.worker_process import MOST_LEFT
from penstock.sdk.serving import add_services

HERE = "penstock.sdk.agents_test"
ENDPOINT = Endpoint("http://127.0.0.1:1/v1", "key")


@agent(client="endpoint")
async def good(task: Task, endpoint: Endpoint) -> Scored:
    """Says what it was given."""
    return Scored(float(task.row.get("worth", 0.5)), {"messages": float(len(task.messages))}, endpoint.base_url)


@agent(name="plain one", client="endpoint")
def plain(task: Task, endpoint: Endpoint) -> float | Invalid:
    worth = task.row.get("worth")
    return Invalid("it is worth nothing") if worth is None else float(worth)


@agent(client="endpoint")
def variables(task: Task, endpoint: Endpoint) -> Scored:
    return Scored(1.0, answer=f"{os.environ['OPENAI_BASE_URL']} {os.environ['OPENAI_API_KEY']}")


@agent(client="endpoint")
def raising(task: Task, endpoint: Endpoint) -> float:
    raise RuntimeError("no way")


@agent(client="endpoint")
def dying(task: Task, endpoint: Endpoint) -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@agent(client="endpoint")
def hanging(task: Task, endpoint: Endpoint) -> float:
    if path := task.row.get("begun"):
        pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(600)
    return 1.0


@agent
async def rewarding(task: Task, client: Any) -> Scored:
    answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    name = answer.id if task.row.get("rewards") != "another" else "chatcmpl-mine"
    return Scored(1.0, rewards={name: 1.0})


LEAVE = threading.Event()


@agent(client="endpoint")
def leaving(task: Task, endpoint: Endpoint) -> Scored:
    """Leaves threads that never end."""
    for _ in range(int(task.row["threads"])):
        threading.Thread(target=LEAVE.wait, daemon=True).start()
    return Scored(1.0, answer=str(os.getpid()))


@agent(client="endpoint")
async def pooling(task: Task, endpoint: Endpoint) -> Scored:
    """Leaves a pool of threads that wait for work."""
    pids = await asyncio.gather(*(asyncio.to_thread(os.getpid) for _ in range(16)))
    return Scored(1.0, answer=str(pids[0]))


@agent(client="endpoint")
def nonsense(task: Task, endpoint: Endpoint) -> Any:
    return "much"


@agent
async def wanting(task: Task, client: Any) -> float:
    return 1.0


@asynccontextmanager
async def served(*hosts: AgentHost) -> AsyncIterator[tuple[str, environment_pb2_grpc.AgentServiceAsyncStub]]:
    async with rpc.Server("environment") as server:
        add_services(server, [], [], hosts)
        await server.start()
        async with rpc.channel(server.address) as channel:
            yield server.address, environment_pb2_grpc.AgentServiceStub(channel)


async def run(stub: environment_pb2_grpc.AgentServiceAsyncStub, name: str, row: str = "{}") -> Sequence[pb.RunResponse]:
    request = pb.RunRequest(request_id="1", agent=name, row_json=row, base_url=ENDPOINT.base_url, key=ENDPOINT.key)
    request.messages.add(role="user", content="hello")
    request.lifetime.FromSeconds(20)
    with rpc.translated():
        return [each async for each in stub.Run(request, timeout=25)]


async def test_every_run_has_one_outcome_the_last_of_its_stream() -> None:
    async with served(good, plain, raising) as (_, stub):
        told = await run(stub, "good")
        assert [each.WhichOneof("told") for each in told] == ["progress", "outcome"]
        outcome = told[-1].outcome
        assert (outcome.reward, outcome.answer) == (0.5, ENDPOINT.base_url)
        assert dict(outcome.components) == {"messages": 1.0}
        assert (await run(stub, "plain one"))[-1].outcome.invalid_reason == "it is worth nothing"
        assert (await run(stub, "plain one", '{"worth": 2}'))[-1].outcome.reward == 2.0
        failed = (await run(stub, "raising"))[-1].outcome
        assert failed.failure == "raising raised RuntimeError: no way" and not failed.HasField("reward")
        listed = await rpc.call(stub.ListAgents(pb.ListAgentsRequest(), timeout=5))
        assert [(a.name, a.summary) for a in listed.agents][0] == ("good", "Says what it was given.")
        for name, row, code in (
            ("nobody", "{}", grpc.StatusCode.NOT_FOUND),
            ("good", "[1]", grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(rpc.RpcError) as refused:
                await run(stub, name, row)
            assert refused.value.code == code


async def test_a_service_of_agents_keeps_its_promises() -> None:
    async with served(good) as (address, _):
        report = await check_agent(address)
    assert report.passed and len(report.checks) == 7, report


@pytest.mark.parametrize(("makes", "kept"), [("its own", True), ("another", False)])
async def test_a_reward_for_an_answer_that_nobody_gave_breaks_a_promise(makes: str, kept: bool) -> None:
    async with served(rewarding) as (address, _):
        report = await check_agent(address, row={"rewards": makes})
    broken = [check for check in report.checks if not check.passed]
    assert report.passed is kept and len(broken) == (0 if kept else 1)
    assert kept or "chatcmpl-mine" in broken[0].detail


async def test_an_agent_that_raises_hangs_or_dies_has_failed_and_has_no_reward() -> None:
    async with Workers(1) as workers:
        for target, seconds, why in (
            ("raising", 20.0, "raised RuntimeError: no way"),
            ("dying", 20.0, "died"),
            ("hanging", 0.3, "took longer"),
        ):
            host = await load_agent(workers, f"{HERE}:{target}", name=target)
            with pytest.raises(AgentFailed, match=why):
                await host.run(Task(), ENDPOINT, seconds)
        host = await load_agent(workers, f"{HERE}:good", name="good")
        task = Task({"worth": 3}, (Message("user", "a"),), 7)
        assert await host.run(task, ENDPOINT, 20.0) == Scored(3.0, {"messages": 1.0}, ENDPOINT.base_url)
        nonsense = await load_agent(workers, f"{HERE}:nonsense", name="nonsense")
        assert isinstance(await nonsense.run(Task(), ENDPOINT, 20.0), Invalid)


async def test_threads_that_agents_leave_do_not_outlive_a_worker_for_ever() -> None:
    async with Workers(1) as workers:
        host = await load_agent(workers, f"{HERE}:leaving", name="leaving")
        row = Task({"threads": MOST_LEFT // 3 + 1})
        pids = [str((await host.run(row, ENDPOINT, 20.0)).answer) for _ in range(4)]  # type: ignore[union-attr]
        assert pids[0] == pids[1] == pids[2] != pids[3], "some are let be, more of them end with their process"
        with pytest.raises(ProcessLookupError):
            os.kill(int(pids[0]), 0)
        pool = await load_agent(workers, f"{HERE}:pooling", name="pooling")
        assert len({(await pool.run(Task(), ENDPOINT, 20.0)).answer for _ in range(3)}) == 1  # type: ignore[union-attr]


async def test_a_program_of_others_finds_the_policy_by_two_variables() -> None:
    async with Workers(1) as workers:
        host = await load_agent(workers, f"{HERE}:variables", name="variables")
        result = await host.run(Task(), ENDPOINT, 20.0)
    assert isinstance(result, Scored) and result.answer == "http://127.0.0.1:1/v1 key"


async def test_an_agent_ends_with_its_call(tmp_path: Any) -> None:
    begun = tmp_path / "begun"
    async with Workers(1) as workers:
        host = await load_agent(workers, f"{HERE}:hanging", name="hanging")
        async with served(host) as (_, stub):
            calling = asyncio.create_task(run(stub, "hanging", f'{{"begun": "{begun}"}}'))
            async with asyncio.timeout(20):
                while not begun.exists() or not begun.read_text():
                    await asyncio.sleep(0.01)
                calling.cancel()
                while os.path.exists(f"/proc/{begun.read_text()}"):
                    await asyncio.sleep(0.01)


async def test_who_finds_no_free_worker_in_time_has_failed() -> None:
    async with Workers(1) as workers:
        host = await load_agent(workers, f"{HERE}:good", name="good")
        async with workers.one():
            with pytest.raises(AgentFailed, match="found no free worker"):
                await host.run(Task(), ENDPOINT, 0.05)


async def test_an_agent_that_wants_a_client_which_is_not_there_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(AgentFailed, match="install the package openai"):
        await wanting.run(Task(), ENDPOINT, 5.0)


async def test_a_plain_function_that_hangs_has_failed_in_time() -> None:
    @agent(client="endpoint")
    async def slow(task: Task, endpoint: Endpoint) -> float:
        await asyncio.Event().wait()
        return 1.0

    with pytest.raises(AgentFailed, match="took longer than"):
        await slow.run(Task(), ENDPOINT, 0.05)
