"""Scores completions with the recipe's rewards, in batches that form by themselves.

While one Score call is under way, items gather; the next call takes them all. So a slow reward gets large batches, a
fast one has no delay, and nobody configures a batch size.

Invariant (test name): an item ends as a score or as a typed failure; never as 0 by default, never as another item's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from penstock import rpc
from penstock.recipes.sections import Reward
from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc
from penstock.sdk import Invalid, Scored, checked_results
from penstock.trajectory.v1.trajectory_pb2 import RewardComponent

MAX_ITEMS = 256
AWAY = rpc.Retry((grpc.StatusCode.UNAVAILABLE,))


class RewardFailed(Exception):
    """The item has no score; the text says which reward and why."""


@dataclasses.dataclass
class _Pending:
    item: pb.ScoreItem
    answer: asyncio.Future[Scored]


class RewardClient:
    """One reward of one service."""

    def __init__(self, reward: Reward, address: str, stub: reward_pb2_grpc.RewardServiceAsyncStub) -> None:
        self.reward, self.address, self._stub = reward, address, stub
        self._queue: asyncio.Queue[_Pending] = asyncio.Queue()

    async def score(self, item: pb.ScoreItem) -> Scored:
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
        for key, result in checked_results(list(waiting_for), response.results).items():
            pending = waiting_for[key]
            if isinstance(result, Invalid):
                self._fail([pending], result.reason)
            elif not pending.answer.done():
                pending.answer.set_result(result)

    async def _ask(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        """Score is idempotent: it is repeated while the service is unavailable, within the reward's time."""
        limit = self.reward.timeout_seconds
        what, on = f"{len(request.items)} scores of {self.reward.name}", f"reward {self.address}"
        return await rpc.retried(
            AWAY, limit, lambda left: rpc.call(self._stub.Score(request, timeout=left)), what=what, on=on
        )

    def _fail(self, pending: Iterable[_Pending], reason: str) -> None:
        for each in pending:
            if not each.answer.done():
                each.answer.set_exception(RewardFailed(f"{self.reward.name}: {reason}"))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The reward's components (a reward's own parts follow it, as "reward.part" with weight 0: they are shown, not
    trained on), and the answer that the first reward to name one took the sample to give."""

    components: list[RewardComponent]
    answer: str | None


class Scoring:
    """All parts of the reward."""

    def __init__(self, clients: Sequence[RewardClient]) -> None:
        self._clients = list(clients)

    async def score(self, item: pb.ScoreItem) -> Verdict:
        """What all rewards say. Raises RewardFailed if any has no score."""
        scores = await asyncio.gather(*(client.score(item) for client in self._clients), return_exceptions=True)
        for score in scores:
            if isinstance(score, BaseException):
                raise score
        components, answers = [], []
        for client, score in zip(self._clients, scores, strict=True):
            assert isinstance(score, Scored)
            name = client.reward.name
            components.append(RewardComponent(name=name, value=score.value, weight=client.reward.weight))
            components += [RewardComponent(name=f"{name}.{k}", value=v) for k, v in sorted(score.components.items())]
            answers.append(score.answer)
        return Verdict(components, next((a for a in answers if a is not None), None))


def total(components: Sequence[RewardComponent]) -> float:
    """The reward: the sum of weight x value."""
    return sum(c.weight * c.value for c in components)


@asynccontextmanager
async def scoring(
    rewards: Sequence[Reward], own: Sequence[str], security: rpc.Security, models: Mapping[str, str] | None = None
) -> AsyncIterator[Scoring]:
    """Scoring over open channels. `models`: addresses of reward models by their reward's name; rewards that have none
    of these and no address are our environment service's (`own`)."""
    models = models or {}
    async with AsyncExitStack() as stack:
        clients = []
        for i, reward in enumerate(rewards):
            address = reward.address or models.get(reward.name) or own[i % len(own)]
            channel = await stack.enter_async_context(rpc.channel(address, security=security))
            clients.append(RewardClient(reward, address, reward_pb2_grpc.RewardServiceStub(channel)))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = [tasks.create_task(client.run()) for client in clients]
        try:
            yield Scoring(clients)
        finally:
            for each in running:
                each.cancel()
