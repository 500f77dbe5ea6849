"""A judge over real gRPC: an engine that follows a script says verdicts, read by the recipe's pattern."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from penstock import rpc
from penstock.chat import ChatTokenizer
from penstock.common.v1.common_pb2 import Message
from penstock.recipes.sections import Judge, Reward
from penstock.replicas.engines import engines
from penstock.replicas.pool import Pool
from penstock.reward.v1 import reward_pb2 as pb
from penstock.sdk import Scored
from penstock.testing.fake_engine import FakeEngine, Tokens, serving
from penstock.trajectory.v1.trajectory_pb2 import FINISH_REASON_STOP
from services.rollout.failures import RewardFailed
from services.rollout.judge import JudgeClient, mark, question
from services.rollout.scoring import Scoring

SHORT = {"path": "none", "prompt": "{prompt}{completion}", "max_tokens": 16, "max_context": 64, "read": r"s=(\d+)"}


def judge(**given: Any) -> Judge:
    return Judge.model_validate({**SHORT, **given})


def item(completion: str = "a", row: dict[str, Any] | None = None) -> pb.ScoreItem:
    prompt = [Message(role="user", content="q")]
    return pb.ScoreItem(id="0", prompt=prompt, completion=completion, row_json=json.dumps(row or {}))


@contextlib.asynccontextmanager
async def judging(chat: ChatTokenizer, engine: FakeEngine, **given: Any) -> AsyncIterator[Scoring]:
    """Scoring with one judge that the engine speaks for."""
    reward = Reward(name="good", judge=judge(**given), timeout_seconds=10)
    assert reward.judge is not None
    async with (
        serving(engine) as addresses,
        engines(addresses, rpc.Security(), 3, 10) as pool,
        contextlib.AsyncExitStack() as stack,
    ):
        client = JudgeClient(reward, reward.judge, chat, pool)
        task = asyncio.create_task(client.run())
        stack.callback(task.cancel)
        yield Scoring([Pool([client])])


def says(chat: ChatTokenizer, *texts: str) -> list[list[Any]]:
    words = [chat.render([Message(role="user", content=text)], generate=False) for text in texts]
    return [[Tokens([*tokens[1:], chat.stop_token], finish=FINISH_REASON_STOP)] for tokens in words]


def test_a_mark_is_the_last_one_and_its_place_between_the_marks() -> None:
    assert mark(judge(marks=(0, 10)), "s=1, no: s=7") == pytest.approx(0.7)
    assert mark(judge(marks=(1, 5)), "s=1") == 0.0
    assert mark(judge(), "<think>s=9</think> s=2") == pytest.approx(0.2)
    assert mark(judge(), "fine") is None
    assert mark(judge(), "s=11") is None
    assert mark(Judge(path="x"), "It is right.\n**Score:** 9.5") == pytest.approx(0.95)
    assert mark(judge(read=r"(yes|no)"), "yes") is None


def test_a_question_is_filled_once_and_by_the_row() -> None:
    asked = question(
        judge(prompt="{prompt}|{completion}|{row.gold}|{other}", system="S"), item("{row.gold}", {"gold": 3})
    )
    assert [(m.role, m.content) for m in asked] == [("system", "S"), ("user", "q|{row.gold}|3|{other}")]
    with pytest.raises(RewardFailed, match=r"names \{row.gold\}, and the row has answer"):
        question(judge(prompt="{completion}{row.gold}"), item(row={"answer": 1}))


async def test_a_verdict_becomes_the_value(chat: ChatTokenizer) -> None:
    engine = FakeEngine(script=says(chat, "s=7"))
    async with judging(chat, engine) as scoring:
        verdict = await scoring.score(item())
    assert [c.name for c in verdict.components] == ["good"] and verdict.components[0].value == pytest.approx(0.7)
    assert engine.prompts[0] == chat.render([Message(role="user", content="qa")])
    assert engine.requests[0].sampling.temperature == 0


async def test_a_verdict_without_a_mark_becomes_no_number_unless_the_recipe_names_one(chat: ChatTokenizer) -> None:
    engine = FakeEngine(script=says(chat, "abc", "s=5", "abc", "abc", "abc", "abc"))
    async with judging(chat, engine) as scoring:
        assert (await scoring.score(item())).components[0].value == pytest.approx(0.5)
        assert engine.requests[1].sampling.temperature == 1.0
        with pytest.raises(RewardFailed, match="good: no mark can be read in the verdict"):
            await scoring.score(item())
    async with judging(chat, FakeEngine(script=says(chat, "abc", "abc")), unread=0.25) as scoring:
        parts = (await scoring.score(item())).components
    assert [(c.name, c.value) for c in parts] == [("good", 0.25), ("good.unread", 1.0)]


@pytest.mark.parametrize(
    ("completion", "script", "said"),
    [
        ("a" * 100, [], r"has 1\d\d tokens; its max_context leaves 48"),
        ("a", [[rpc.Abort(grpc.StatusCode.INVALID_ARGUMENT, "no")]], "INVALID_ARGUMENT"),
    ],
)
async def test_what_cannot_be_judged_fails_alone(
    chat: ChatTokenizer, completion: str, script: Sequence[Any], said: str
) -> None:
    engine = FakeEngine(script=[*script, *says(chat, "s=10")])
    async with judging(chat, engine) as scoring:
        with pytest.raises(RewardFailed, match=f"good: .*{said}"):
            await scoring.score(item(completion))
        verdict = await scoring.score(item("b"))
    assert verdict.components[0].value == Scored(1.0).value
