"""Who is in a pool, as members of a run come, drain and go; and that their work goes on elsewhere."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from penstock import rpc
from penstock.bus import Bus, RunNames
from penstock.common.v1.common_pb2 import SamplingParams
from penstock.membership import Member, MemberState, announcing, watching
from penstock.replicas.engines import engines, replicas_of
from penstock.replicas.pool import Members, Pool, pool
from penstock.testing.fake_engine import FakeEngine, Step, Tokens, serving
from penstock.trajectories import TrajectoryBuilder
from penstock.trajectory.v1 import trajectory_pb2 as pb

READY, DRAINING = MemberState.MEMBER_STATE_READY, MemberState.MEMBER_STATE_DRAINING


def member(instance: str, address: str = "", state: MemberState = READY) -> Member:
    return Member(kind="generation", instance=instance, address=address or f"{instance}:1", state=state)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def test_whoever_is_ready_is_in_the_pool_once_and_nobody_else_is(bus: Bus, names: RunNames) -> None:
    open_now, left = list[str](), list[str]()

    @asynccontextmanager
    async def opened(address: str) -> AsyncIterator[str]:
        open_now.append(address)
        yield address
        open_now.remove(address)

    async with (
        watching(bus, names) as watcher,
        pool(Members(watcher, "generation"), opened, leave=left.append, idle=lambda each: True) as found,
    ):
        assert not await found.some("a replica", on="generation", within=0.05)
        async with announcing(bus, names, member("one")) as one:
            await until(lambda: list(found) == ["one:1"])
            async with announcing(bus, names, member("two", state=MemberState.MEMBER_STATE_STARTING)) as two:
                await two.say(READY)
                await until(lambda: list(found) == ["one:1", "two:1"])
                await one.say(READY)
                await one.say(DRAINING)
                await until(lambda: list(found) == ["two:1"])
                assert left == ["one:1"]
            await until(lambda: not found)
        assert left == ["one:1", "two:1"]
        await until(lambda: not open_now)


async def test_a_member_that_cannot_be_called_is_left_out_and_the_others_are_used(bus: Bus, names: RunNames) -> None:
    """Its address would have a secret cross a network in plain text, or is none."""
    known = rpc.Security(token="secret")
    async with (
        watching(bus, names) as watcher,
        replicas_of(Members(watcher, "generation"), known) as found,
        announcing(bus, names, member("abroad", "203.0.113.7:1")),
        announcing(bus, names, member("here", "127.0.0.1:1")),
    ):
        await until(lambda: [replica.address for replica in found] == ["127.0.0.1:1"])


async def test_a_turn_waits_for_a_replica_that_comes(bus: Bus, names: RunNames) -> None:
    builder, fake = TrajectoryBuilder(), FakeEngine([[Tokens([5, 2], step=3, finish=pb.FINISH_REASON_STOP)]])
    builder.context("user", [3, 4])
    sampling = SamplingParams(temperature=1, top_p=1, max_tokens=8, stop_token_ids=[2])
    async with (
        serving(fake) as (address,),
        watching(bus, names) as watcher,
        engines(Members(watcher, "generation"), rpc.Security(), 3, 10) as replicas,
    ):
        until_end = time.monotonic() + 20
        turn = asyncio.create_task(replicas.complete(builder, "g", pb.RolloutWork(), sampling, until_end))
        async with announcing(bus, names, member("late", address)):
            finish, where = await asyncio.wait_for(turn, 15)
    assert (finish, where, builder.completion) == (pb.FINISH_REASON_STOP, address, [5, 2])


async def test_what_is_pinned_to_a_version_goes_to_whoever_says_that_it_holds_it(bus: Bus, names: RunNames) -> None:
    """Nobody does at first; the others are not asked, be they preferred or not."""
    script: list[list[Step]] = [[Tokens([5, 2], step=3, finish=pb.FINISH_REASON_STOP)] for _ in range(8)]
    fakes = [FakeEngine(list(script)) for _ in range(3)]
    sampling, work = SamplingParams(temperature=1, top_p=1, max_tokens=8, stop_token_ids=[2]), pb.RolloutWork()
    work.pinned_step = 3
    async with (
        serving(*fakes) as addresses,
        watching(bus, names) as watcher,
        engines(Members(watcher, "generation"), rpc.Security(), 3, 10) as replicas,
    ):
        members = [member(f"g{i}", address) for i, address in enumerate(addresses)]
        for each in members:
            each.step = 2
        async with announcing(bus, names, members[0]), announcing(bus, names, members[1]):
            async with announcing(bus, names, members[2]) as canary:
                builders = [TrajectoryBuilder() for _ in range(8)]
                for builder in builders:
                    builder.context("user", [3, 4])
                end = time.monotonic() + 20
                turns = [
                    asyncio.create_task(replicas.complete(builder, f"g{i}", work, sampling, end))
                    for i, builder in enumerate(builders)
                ]
                await until(lambda: len(watcher.view.ready("generation")) == 3)
                assert not any(fake.requests for fake in fakes)
                canary.member.step = 3
                await canary.say(READY)
                assert {where for _, where in await asyncio.wait_for(asyncio.gather(*turns), 15)} == {addresses[2]}
    assert not fakes[0].requests and not fakes[1].requests


def test_a_pool_of_those_that_stay_is_a_sequence() -> None:
    assert list(Pool(["a", "b"])) == ["a", "b"] and not Pool[str]()


async def test_what_is_pinned_to_a_version_that_all_have_passed_is_refused_at_once(bus: Bus, names: RunNames) -> None:
    async with watching(bus, names) as watcher:
        where, passed = Members(watcher, "generation"), member("g0", "127.0.0.1:1")
        assert not where.passed(3)
        passed.step = 4
        async with announcing(bus, names, passed):
            await until(lambda: len(watcher.view.ready("generation")) == 1)
            assert where.passed(3) and not where.holding(3)
            assert not where.passed(4) and where.holding(4) == {"127.0.0.1:1"}
