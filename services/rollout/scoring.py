"""Scores completions with the recipe's rewards, in batches that form by themselves.

While one Score call is under way, items gather; the next call takes them all. So a slow reward gets large batches, a
fast one has no delay, and nobody configures a batch size.

Invariant (test name): an item ends as a score or as a typed failure; never as 0 by default, never as another item's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from penstock import rpc
from penstock.recipes.sections import Reward
from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc
from penstock.telemetry.waits import waiting
from penstock.trajectory.v1.trajectory_pb2 import RewardComponent

MAX_ITEMS = 256
RETRY_SECONDS = 0.5


class RewardFailed(Exception):
    """The item has no score; the text says which reward and why."""


@dataclasses.dataclass
class _Pending:
    item: pb.ScoreItem
    answer: "asyncio.Future[pb.Score]"


class Scorer:
    """One reward of one service."""

    def __init__(self, reward: Reward, address: str, stub: reward_pb2_grpc.RewardServiceAsyncStub) -> None:
        self.reward, self.address, self._stub = reward, address, stub
        self._queue: asyncio.Queue[_Pending] = asyncio.Queue()

    async def score(self, item: pb.ScoreItem) -> pb.Score:
        """The item's score. Raises RewardFailed."""
        pending = _Pending(item, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(pending)
        return await pending.answer

    async def run(self) -> None:
        """Calls the service for whatever has gathered, for ever."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MAX_ITEMS and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._call([p for p in batch if not p.answer.cancelled()])

    async def _call(self, batch: Sequence[_Pending]) -> None:
        if not batch:
            return
        # Ids are ours: two samples may carry the same words, and an answer must find its item.
        waiting_for = {str(i): p for i, p in enumerate(batch)}
        request = pb.ScoreRequest(request_id=uuid.uuid4().hex, reward=self.reward.name)
        for key, pending in waiting_for.items():
            item = request.items.add()
            item.CopyFrom(pending.item)
            item.id = key
        try:
            response = await self._ask(request)
        except rpc.RpcError as error:
            self._fail(waiting_for.values(), str(error))
            return
        for result in response.results:
            pending_or_none = waiting_for.pop(result.id, None)
            if pending_or_none is None or pending_or_none.answer.done():
                continue  # an answer for an item that was not asked for: nobody's score
            if result.WhichOneof("result") != "score":
                self._fail([pending_or_none], result.invalid.reason or "invalid without a reason")
            elif not math.isfinite(result.score.value):
                self._fail([pending_or_none], f"the score is {result.score.value}, which is not finite")
            else:
                pending_or_none.answer.set_result(result.score)
        self._fail(waiting_for.values(), "the service did not answer for this item")

    async def _ask(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        """Score is idempotent: it is repeated while the service is unavailable, within the reward's time."""
        limit = self.reward.timeout_seconds
        end = asyncio.get_running_loop().time() + limit
        with waiting(f"{len(request.items)} scores of {self.reward.name}", on=f"reward {self.address}", deadline=limit):
            while True:
                left = end - asyncio.get_running_loop().time()
                try:
                    return await rpc.call(self._stub.Score(request, timeout=max(0.05, left)))
                except rpc.errors.Unavailable as error:
                    if left < 2 * RETRY_SECONDS:
                        raise
                    await asyncio.sleep(error.retry_after or RETRY_SECONDS)

    def _fail(self, pending: Iterable[_Pending], reason: str) -> None:
        for each in pending:
            if not each.answer.done():
                each.answer.set_exception(RewardFailed(f"{self.reward.name}: {reason}"))


class Scoring:
    """All parts of the reward."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self._scorers = list(scorers)

    async def score(self, item: pb.ScoreItem) -> list[RewardComponent]:
        """The reward's components. Raises RewardFailed if any part has no score."""
        scores = await asyncio.gather(*(s.score(item) for s in self._scorers), return_exceptions=True)
        for score in scores:
            if isinstance(score, BaseException):
                raise score
        return [
            RewardComponent(name=scorer.reward.name, value=score.value, weight=scorer.reward.weight)
            for scorer, score in zip(self._scorers, scores, strict=True)
            if not isinstance(score, BaseException)
        ]


def total(components: Sequence[RewardComponent]) -> float:
    """The reward: the sum of weight x value."""
    return sum(c.weight * c.value for c in components)


@asynccontextmanager
async def scoring(rewards: Sequence[Reward], own: Sequence[str], security: rpc.Security) -> AsyncIterator[Scoring]:
    """Scoring over open channels; rewards without an address are our environment service's."""
    async with AsyncExitStack() as stack:
        scorers = []
        for i, reward in enumerate(rewards):
            address = reward.address or own[i % len(own)]
            channel = await stack.enter_async_context(rpc.channel(address, security=security))
            scorers.append(Scorer(reward, address, reward_pb2_grpc.RewardServiceStub(channel)))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = [tasks.create_task(s.run()) for s in scorers]
        try:
            yield Scoring(scorers)
        finally:
            for each in running:
                each.cancel()
