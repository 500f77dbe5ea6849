"""What becomes of the items of a service that leaves the run: another one is asked, and none is lost or asked twice."""

import asyncio
from contextlib import AsyncExitStack

from penstock import rpc
from penstock.recipes.sections import Reward
from penstock.replicas.pool import Pool
from penstock.reward.v1 import reward_pb2_grpc
from services.rollout.fake_reward_testing import FakeReward, item, scored
from services.rollout.reward_client import Client, RewardClient
from services.rollout.scoring import Scoring


async def client(stack: AsyncExitStack, tasks: asyncio.TaskGroup, fake: FakeReward) -> RewardClient:
    """A client of a served fake, at work."""
    server = await stack.enter_async_context(rpc.Server("reward"))
    server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, fake)
    await server.start()
    channel = await stack.enter_async_context(rpc.channel(server.address))
    made = RewardClient(Reward(name="r"), server.address, reward_pb2_grpc.RewardServiceStub(channel))
    stack.callback(tasks.create_task(made.run()).cancel)
    return made


async def test_what_waits_for_a_service_that_leaves_is_scored_by_another_and_what_it_has_it_may_finish() -> None:
    leaving, staying = FakeReward(scored(1.0)), FakeReward(scored(2.0))
    leaving.gate.clear()
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        first, second = [await client(stack, tasks, fake) for fake in (leaving, staying)]
        pool = Pool[Client]([first])
        scorer = Scoring([pool])
        under_way = asyncio.create_task(scorer.score(item("under way")))
        while not leaving.batches:
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(scorer.score(item("waiting")))
        while first.waiting < 2:
            await asyncio.sleep(0.01)
        await pool.become([second])
        first.leave()
        assert (await waiting).components[0].value == 2.0
        leaving.gate.set()
        assert (await under_way).components[0].value == 1.0
    assert (leaving.batches, staying.batches) == ([["under way"]], [["waiting"]])


async def test_a_call_that_dies_with_the_service_that_leaves_is_scored_by_another() -> None:
    leaving = FakeReward(scored(1.0), [rpc.unavailable("going", retry_after=0.01)])
    staying = FakeReward(scored(2.0))
    leaving.gate.clear()
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        first, second = [await client(stack, tasks, fake) for fake in (leaving, staying)]
        pool = Pool[Client]([first])
        verdict = asyncio.create_task(Scoring([pool]).score(item()))
        while not leaving.batches:
            await asyncio.sleep(0.01)
        await pool.become([second])
        first.leave()
        leaving.gate.set()
        assert (await verdict).components[0].value == 2.0
    assert len(leaving.batches) == 1
