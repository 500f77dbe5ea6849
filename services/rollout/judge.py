"""A chat model as a reward: it is asked what a completion is worth, and the mark is read out of what it says.

    question: the recipe's prompt with the row's and the policy's words in it, rendered by the judge's own template
    verdict:  drawn by an engine over the generation contract, as the policy's own turns are
    mark:     group 1 of the last match of `read`; its place between `marks` is the value, 0 to 1

The policy's words are text to the judge: no part of them becomes one of its control tokens, and none is taken for a
part of the prompt's form. They can still try to persuade it.

Invariant (test name): a verdict without a mark becomes no number unless the recipe names one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from penstock import rpc
from penstock.chat import ChatTokenizer, TemplateError
from penstock.common.v1.common_pb2 import Message, SamplingParams
from penstock.recipes.sections import Judge, Reward
from penstock.replicas.engines import Engines, GenerationFailed, engines
from penstock.replicas.pool import Where
from penstock.reward.v1 import reward_pb2 as pb
from penstock.sdk import Scored
from penstock.trajectories import TrajectoryBuilder
from penstock.trajectory.v1.trajectory_pb2 import RolloutWork
from services.rollout.failures import RewardFailed

ATTEMPTS = 3
AGAIN = 1.0
"""The least temperature of the second try: at 0 it would say the same."""
_FIELD = re.compile(r"\{(prompt|completion|row\.([^{}]+))\}")


def question(judge: Judge, item: pb.ScoreItem) -> list[Message]:
    """What the judge is asked. Raises RewardFailed for a row without a field that the prompt names."""
    row: Mapping[str, Any] = json.loads(item.row_json or "{}")

    def value(field: re.Match[str]) -> str:
        if field[1] == "completion":
            return item.completion
        if field[1] == "prompt":
            return "\n\n".join(m.content if len(item.prompt) == 1 else f"{m.role}: {m.content}" for m in item.prompt)
        if field[2] not in row:
            has = ", ".join(row) or "nothing"
            raise RewardFailed(f"the judge's prompt names {{row.{field[2]}}}, and the row has {has}")
        found = row[field[2]]
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    asked = Message(role="user", content=_FIELD.sub(value, judge.prompt))
    return [asked] if judge.system is None else [Message(role="system", content=judge.system), asked]


def mark(judge: Judge, said: str) -> float | None:
    """The value, 0 to 1, of the last mark in a verdict; None if there is none between the least and the greatest."""
    least, greatest = judge.marks
    found = [m[1] for m in re.finditer(judge.read, said.rpartition("</think>")[2]) if m[1] is not None]
    try:
        given = float(found[-1])
    except (IndexError, ValueError):
        return None
    return (given - least) / (greatest - least) if least <= given <= greatest else None


@dataclasses.dataclass(frozen=True)
class _Asked:
    item: pb.ScoreItem
    answer: asyncio.Future[Scored]


class JudgeClient:
    """One judge, as a `reward_client.Client`. `run` asks for all that wait; the engine makes the batches."""

    def __init__(self, reward: Reward, judge: Judge, chat: ChatTokenizer, pool: Engines) -> None:
        self.reward, self._judge, self._chat, self._engines = reward, judge, chat, pool
        self._queue: asyncio.Queue[_Asked] = asyncio.Queue()
        self.waiting = 0

    def score(self, item: pb.ScoreItem) -> asyncio.Future[Scored]:
        """The item's score, or RewardFailed."""
        asked = _Asked(item, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(asked)
        self.waiting += 1
        asked.answer.add_done_callback(self._answered)
        return asked.answer

    def _answered(self, _: asyncio.Future[Scored]) -> None:
        self.waiting -= 1

    def leave(self) -> None:
        """It never leaves: its engines come and go below it."""

    async def run(self) -> None:
        """Asks for ever."""
        async with asyncio.TaskGroup() as verdicts:
            while True:
                verdicts.create_task(self._answer(await self._queue.get()))

    async def _answer(self, asked: _Asked) -> None:
        try:
            score = await self._score(asked.item)
        except (RewardFailed, GenerationFailed, TemplateError, UnicodeError) as error:  # a half surrogate is no text
            if not asked.answer.done():
                asked.answer.set_exception(RewardFailed(f"{self.reward.name}: {error}"))
        else:
            if not asked.answer.done():
                asked.answer.set_result(score)

    async def _score(self, item: pb.ScoreItem) -> Scored:
        judge, until = self._judge, time.monotonic() + self.reward.timeout_seconds
        prompt = await asyncio.to_thread(self._chat.render, question(judge, item))
        most = judge.max_context - judge.max_tokens
        if len(prompt) > most:
            raise RewardFailed(f"the question to the judge has {len(prompt)} tokens; its max_context leaves {most}")
        said = ""
        for temperature in (judge.temperature, max(judge.temperature, AGAIN)):
            said = await self._verdict(item, prompt, temperature, until)
            value = mark(judge, said)
            if value is not None:
                return Scored(value)
        if judge.unread is None:
            raise RewardFailed(f"no mark can be read in the verdict {said[-200:]!r}")
        return Scored(judge.unread, {"unread": 1.0})

    async def _verdict(self, item: pb.ScoreItem, prompt: Sequence[int], temperature: float, until: float) -> str:
        builder = TrajectoryBuilder()
        builder.context("user", prompt)
        sampling = SamplingParams(
            temperature=temperature,
            top_p=1.0,
            max_tokens=self._judge.max_tokens,
            stop_token_ids=self._chat.stop_tokens,
        )
        # Answers to one question go to one replica, which has the beginning of their prompts already.
        asked = zlib.crc32(b"".join(m.SerializeToString(deterministic=True) for m in item.prompt))
        await self._engines.complete(builder, f"{self.reward.name}-{asked:08x}", RolloutWork(), sampling, until)
        return self._chat.text(builder.completion)


@asynccontextmanager
async def judge(reward: Reward, where: Where, security: rpc.Security) -> AsyncIterator[JudgeClient]:
    """A JudgeClient over open channels."""
    assert reward.judge is not None
    chat = await asyncio.to_thread(ChatTokenizer, reward.judge.path)
    async with engines(where, security, ATTEMPTS, reward.timeout_seconds) as pool:
        yield JudgeClient(reward, reward.judge, chat, pool)
