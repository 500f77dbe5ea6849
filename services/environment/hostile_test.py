"""Rewards and environments in their worker processes against every attack of the kit, on the real service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from penstock.common.v1 import common_pb2
from penstock.environment.v1 import environment_pb2, environment_pb2_grpc
from penstock.reward.v1 import reward_pb2, reward_pb2_grpc
from penstock.rpc import call, channel
from penstock.testing.hostile_messages import assault
from penstock.trajectory.v1 import trajectory_pb2
from services.environment.server import Settings, running

TOOL = common_pb2.ToolCall(id="1", name="calculate", arguments_json='{"x": 1}')
ANSWER = common_pb2.Message(role="assistant", content="7", tool_calls=[TOOL])


@pytest_asyncio.fixture
async def address() -> AsyncIterator[str]:
    async with running(Settings(workers=1)) as server:
        yield server.address


def item(row: str) -> reward_pb2.ScoreItem:
    stop = trajectory_pb2.FINISH_REASON_STOP
    return reward_pb2.ScoreItem(id="1", prompt=[ANSWER], completion="ab", finish_reason=stop, row_json=row)


async def test_every_rpc_of_rewards_withstands_hostile_requests(address: str) -> None:
    service = reward_pb2.DESCRIPTOR.services_by_name["RewardService"]
    one, stream = reward_pb2.ScoreRequest, reward_pb2.ScoreStreamRequest
    good = one(request_id="r", reward="sort_characters", items=[item('{"prompt": "ba"}')])
    seeds: Any = {
        "Score": [good, one(reward="math", items=[item('{"answer": "4"}')])],
        "ScoreStream": stream(reward="sort_characters", items=[item('{"prompt": "ba"}')]),
    }
    assert await assault(address, service, seeds, seconds=60) == []
    async with channel(address) as opened:
        answer = await call(reward_pb2_grpc.RewardServiceStub(opened).Score(good, timeout=30))
        assert [result.score.value for result in answer.results] == [1.0]


async def test_every_rpc_of_environments_withstands_hostile_requests(address: str) -> None:
    service = environment_pb2.DESCRIPTOR.services_by_name["EnvironmentService"]
    reset = environment_pb2.ResetRequest(request_id="r", environment="guess_number", row_json="{}", seed=1)
    async with channel(address, default_seconds=30) as opened:
        stub = environment_pb2_grpc.EnvironmentServiceStub(opened)
        episode = (await call(stub.Reset(reset))).episode
        stop = trajectory_pb2.FINISH_REASON_STOP
        step = environment_pb2.StepRequest(request_id="s", episode=episode, action=ANSWER, finish_reason=stop)
        seeds = {"Reset": reset, "Step": step, "Close": environment_pb2.CloseRequest(episode="none")}
        assert await assault(address, service, seeds, seconds=60) == []
        again = await call(stub.Reset(environment_pb2.ResetRequest(request_id="r2", environment="guess_number")))
        await call(stub.Step(environment_pb2.StepRequest(request_id="s", episode=again.episode, action=ANSWER)))
        await call(stub.Close(environment_pb2.CloseRequest(episode=again.episode)))
