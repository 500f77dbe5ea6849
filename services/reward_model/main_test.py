"""The real process: started by its command line, held to the reward contract over gRPC, assaulted, ended by SIGTERM."""

import asyncio
import pathlib
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from penstock.common.v1 import common_pb2
from penstock.reward.v1 import reward_pb2, reward_pb2_grpc
from penstock.rpc import call, channel
from penstock.sdk import check_reward
from penstock.testing.hostile_messages import assault
from penstock.tiny_model import make_model
from penstock.trajectory.v1 import trajectory_pb2
from services.reward_model.model import RewardModel
from services.reward_model.models_testing import make_reward_model

MODULE = "services.reward_model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_reward_model(tmp_path_factory.mktemp("model"))


@pytest_asyncio.fixture
async def address(folder: pathlib.Path, tmp_path: pathlib.Path) -> AsyncIterator[str]:
    announced = tmp_path / "address"
    flags = ["--model", str(folder), "--reward", "helpful", "--announce", str(announced)]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", MODULE, *flags)
    try:
        async with asyncio.timeout(90):
            while not announced.exists():
                assert process.returncode is None
                await asyncio.sleep(0.02)
        yield announced.read_text()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def item(text: str, **fields: Any) -> reward_pb2.ScoreItem:
    call_ = common_pb2.ToolCall(id="1", name="f", arguments_json='{"x": 1}')
    prompt = [common_pb2.Message(role="user", content="c3a", tool_calls=[call_])]
    stop = trajectory_pb2.FINISH_REASON_STOP
    return reward_pb2.ScoreItem(id=text[:9] or "-", prompt=prompt, completion=text, finish_reason=stop, **fields)


async def test_it_keeps_the_contract_gives_the_models_scores_and_withstands_hostile_requests(
    address: str, folder: pathlib.Path
) -> None:
    report = await check_reward(address, reward="helpful")
    assert report.passed, [check for check in report.checks if not check.passed]
    texts = ["3ac", "c3a", "", "a" * 300]
    request = reward_pb2.ScoreRequest(request_id="r", reward="helpful", items=[item(t) for t in texts])
    async with channel(address) as opened:
        stub = reward_pb2_grpc.RewardServiceStub(opened)
        answers = {a.id: a for a in (await call(stub.Score(request, timeout=30))).results}
        model = RewardModel(folder)
        from penstock.sdk.hosting.wire import sample_from_proto

        for each in request.items[:3]:
            (expected,) = model.scores([model.tokens(sample_from_proto(each))])
            assert answers[each.id].score.value == pytest.approx(expected, abs=1e-5)
        assert "positions" in answers["a" * 9].invalid.reason and not answers["a" * 9].HasField("score")
    service = reward_pb2.DESCRIPTOR.services_by_name["RewardService"]
    seeds: Any = {
        "Score": reward_pb2.ScoreRequest(request_id="r", reward="helpful", items=[item("3ac")]),
        "ScoreStream": reward_pb2.ScoreStreamRequest(reward="helpful", items=[item("3ac", row_json='{"a": 1}')]),
    }
    assert await assault(address, service, seeds, seconds=60) == []
    assert (await check_reward(address, reward="helpful")).passed


async def test_a_directory_without_a_reward_model_ends_it_with_status_2_and_a_reason(tmp_path: pathlib.Path) -> None:
    make_model(tmp_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", MODULE, "--model", str(tmp_path), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 2
    assert b"--model" in errors and b"Qwen3ForCausalLM is not a reward model" in errors and b"Traceback" not in errors
