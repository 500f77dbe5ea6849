"""Rewards in this process and in worker processes, over gRPC."""

from __future__ import annotations

import asyncio
import os
import pathlib
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from penstock.reward.v1 import reward_pb2, reward_pb2_grpc
from penstock.rpc import Server, call, channel
from penstock.rpc.errors import InvalidArgument, NotFound
from penstock.sdk import Invalid, Sample, Scored, check_reward, checked_results, reward
from penstock.sdk.hosting.hostile_testing import hostile
from penstock.sdk.hosting.isolation import load_reward
from penstock.sdk.hosting.reward_service import RewardService
from penstock.sdk.hosting.worker_pool import Workers
from penstock.sdk.rewards import Scorer

TARGET = "penstock.sdk.hosting.hostile_testing:hostile"
Results = dict[str, Scored | Invalid]


@reward(maximum=10)
async def asynchronous(sample: Sample) -> Scored:
    """Counts letters."""
    await asyncio.sleep(0)
    return Scored(len(sample.completion), {"letters": len(sample.completion)})


@asynccontextmanager
async def _serving(*scorers: Scorer) -> AsyncIterator[str]:
    async with Server("reward") as server:
        server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, RewardService(scorers))
        await server.start()
        yield server.address


async def _score(address: str, completions: list[str], name: str = "") -> Results:
    items = [reward_pb2.ScoreItem(id=f"{n}:{text}", completion=text) for n, text in enumerate(completions)]
    async with channel(address) as opened:
        stub = reward_pb2_grpc.RewardServiceStub(opened)
        response = await call(stub.Score(reward_pb2.ScoreRequest(reward=name, items=items), timeout=20))
    assert len(response.results) == len(items)
    return checked_results([item.id for item in items], response.results)


@pytest.mark.parametrize("isolated", [False, True])
async def test_every_item_is_answered_exactly_once(isolated: bool) -> None:
    bad = ["nan", "inf", "none", "text", "raise", "hang", "outside", "exit", "stop", "interrupt", "cancel", "die"]
    bad += ["memory"] if isolated else []
    async with Workers(2) as workers:
        scorer: Scorer = await load_reward(workers, TARGET) if isolated else hostile
        async with _serving(scorer) as address:
            results = await _score(address, ["fine", *bad, "print", "fine"])
    for item, result in results.items():
        if item.endswith((":fine", ":print")):
            assert result == Scored(0.5), item
        else:
            assert isinstance(result, Invalid), item
            assert "hostile" in result.reason or "not a finite number" in result.reason


async def test_a_callable_object_may_be_asynchronous_and_its_numbers_of_any_kind() -> None:
    class Judge:
        async def __call__(self, sample: Sample) -> Decimal:
            await asyncio.sleep(0)
            if sample.completion == "exit":
                sys.exit(3)
            if sample.completion == "die":
                os._exit(7)
            return Decimal("0.5")

    async with _serving(reward(name="judge")(Judge())) as address:
        results = list((await _score(address, ["a", "exit", "die", "b"])).values())
    assert results[0] == results[3] == Scored(0.5)
    assert all(isinstance(each, Invalid) and "SystemExit" in each.reason for each in results[1:3])


async def test_rewards_that_hang_hold_no_thread_that_others_need() -> None:
    release = threading.Event()

    @reward(timeout=0.2)
    def stuck(sample: Sample) -> float:
        if sample.completion == "hang":
            release.wait(60)
        return 1.0

    async with _serving(stuck) as address:
        hung = await _score(address, ["hang"] * 70)
        assert all(isinstance(each, Invalid) for each in hung.values())
        assert await _score(address, ["a"]) == {"0:a": Scored(1.0)}
    release.set()


async def test_a_failed_worker_is_replaced_before_its_next_use() -> None:
    async with Workers(1) as workers:
        scorer = await load_reward(workers, TARGET)
        for completion, reason in (("die", "died"), ("hang", "killed")):
            before = workers.all[0].generation
            result = await scorer.score(Sample("1", completion=completion))
            assert isinstance(result, Invalid) and reason in result.reason
            assert await scorer.score(Sample("2")) == Scored(0.5)
            assert workers.all[0].generation == before + 1


async def test_no_more_workers_import_at_once_than_may(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each leaves its name while it imports, and notes how many did."""
    module = f"""
import os, pathlib, time
from penstock.sdk import reward
folder = pathlib.Path({str(tmp_path)!r})
own = folder / f"importing-{{os.getpid()}}"
own.touch()
for _ in range(50):
    with (folder / "seen").open("a") as seen:
        print(len(list(folder.glob("importing-*"))), file=seen)
    time.sleep(0.002)
own.unlink()

@reward
def slow(sample) -> float:
    return 1.0
"""
    (tmp_path / "slow_module.py").write_text(module)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    async with Workers(6, variables={"PYTHONPATH": path}) as workers:
        request = {"op": "load", "target": "slow_module:slow"}
        await asyncio.gather(*(worker.call(request, seconds=60) for worker in workers.all))
    assert {int(line) for line in (tmp_path / "seen").read_text().split()} == {1, 2}


async def test_a_blocking_reward_delays_no_other_call() -> None:
    @reward(timeout=5)
    def blocking(sample: Sample) -> float:
        time.sleep(0.5)
        return 1.0

    async with _serving(blocking, asynchronous) as address:
        slow = asyncio.create_task(_score(address, ["x"] * 8, "blocking"))
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await _score(address, ["abc"], "asynchronous") == {"0:abc": Scored(3.0, {"letters": 3.0})}
        assert loop.time() - started < 0.45
        assert all(result == Scored(1.0) for result in (await slow).values())


async def test_bad_requests_are_refused_by_name() -> None:
    async with _serving(asynchronous) as address, channel(address) as opened:
        stub = reward_pb2_grpc.RewardServiceStub(opened)
        item = reward_pb2.ScoreItem(id="a")
        with pytest.raises(NotFound, match="asynchronous") as unknown:
            await call(stub.Score(reward_pb2.ScoreRequest(reward="other", items=[item]), timeout=5))
        assert unknown.value.metadata == {"served": "asynchronous"}
        with pytest.raises(InvalidArgument) as repeated:
            await call(stub.Score(reward_pb2.ScoreRequest(items=[item, item]), timeout=5))
        assert repeated.value.violations[0].field == "items[1].id"


async def test_a_good_service_conforms() -> None:
    async with _serving(asynchronous) as address:
        report = await check_reward(address)
    assert report.passed, [check for check in report.checks if not check.passed]
    assert len(report.checks) == 10


async def test_the_kit_finds_what_is_wrong() -> None:
    class Wrong(reward_pb2_grpc.RewardServiceServicer):
        async def Score(self, request: Any, context: Any) -> Any:
            score = reward_pb2.Score(value=float("nan"))
            return reward_pb2.ScoreResponse(results=[reward_pb2.ScoreResult(id="other", score=score)])

        async def ScoreStream(self, request: Any, context: Any) -> Any:
            yield reward_pb2.ScoreStreamResponse()

        async def Describe(self, request: Any, context: Any) -> Any:
            return reward_pb2.DescribeResponse(rewards=[reward_pb2.RewardDescription(name="wrong")])

    async with Server("wrong") as server:
        server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, Wrong())
        await server.start()
        report = await check_reward(server.address)
    failed = {check.name for check in report.checks if not check.passed}
    assert failed >= {
        "answers each item exactly once",
        "gives a finite score or a reason",
        "refuses an unknown reward with NOT_FOUND",
    }
