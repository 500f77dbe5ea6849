"""Scores completions with the recipe's rewards: each part by whoever gives it, the least busy one first.

How one service is asked is in `reward_client.py`; an item whose service leaves the run is asked of another.

Invariant (test name): an item ends as a score or as a typed failure; never as 0 by default, never as another item's.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from penstock import rpc
from penstock.recipes.sections import Reward
from penstock.replicas.pool import Open, Pool, Where, pool
from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc
from penstock.sdk import Scored
from penstock.trajectory.v1.trajectory_pb2 import RewardComponent
from services.rollout.failures import RewardFailed
from services.rollout.frozen import breath_of
from services.rollout.judge import judge
from services.rollout.reward_client import Client, Moved, RewardClient

ABSENT_SECONDS = 120.0
"""How long an item waits for somebody who could score it."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The reward's components (a reward's own parts follow it, as "reward.part" with weight 0: they are shown, not
    trained on), and the answer that the first reward to name one took the sample to give."""

    components: list[RewardComponent]
    answer: str | None


class Scoring:
    """All parts of the reward. replicas: by part, those who score it; the one with fewest items gets the next."""

    def __init__(self, replicas: Sequence[Pool[Client]]) -> None:
        self._replicas = list(replicas)

    async def score(self, item: pb.ScoreItem) -> Verdict:
        """What all rewards say. Raises RewardFailed if any has no score."""
        scores = await asyncio.gather(*(_scored(each, item) for each in self._replicas), return_exceptions=True)
        components, answers = [], []
        for each in scores:
            if isinstance(each, BaseException):
                raise each
            reward, score = each
            name = reward.name
            components.append(RewardComponent(name=name, value=score.value, weight=reward.weight))
            components += [RewardComponent(name=f"{name}.{k}", value=v) for k, v in sorted(score.components.items())]
            answers.append(score.answer)
        return Verdict(components, next((a for a in answers if a is not None), None))


async def _scored(replicas: Pool[Client], item: pb.ScoreItem) -> tuple[Reward, Scored]:
    """What one part says, asked again where whoever was asked leaves. Raises RewardFailed."""
    while True:
        if not await replicas.some("a service that scores", on="environment", within=ABSENT_SECONDS):
            raise RewardFailed(f"nobody who scores took part in the run for {ABSENT_SECONDS:g} s")
        client = min(replicas, key=lambda each: each.waiting)
        try:
            return client.reward, await client.score(item)
        except Moved:
            continue


def total(components: Sequence[RewardComponent]) -> float:
    """The reward: the sum of weight x value."""
    return sum(c.weight * c.value for c in components)


@asynccontextmanager
async def scoring(
    rewards: Sequence[Reward],
    own: Where,
    security: rpc.Security,
    models: Mapping[str, Where] | None = None,
    judges: Mapping[str, Where] | None = None,
    outage: float = 0.0,
    own_outage: float = 0.0,
) -> AsyncIterator[Scoring]:
    """Scoring over open channels. `models`, `judges`: addresses of models that score by their reward's name; rewards
    that have none of these and no address are our environment service's (`own`). Foreign ones see their own credentials
    alone, and may be away for `outage` seconds; services of the run for `own_outage`."""
    models, judges = models or {}, judges or {}
    async with AsyncExitStack() as stack:
        replicas: list[Pool[Client]] = []
        for reward in rewards:
            if reward.judge is not None:
                asked = await stack.enter_async_context(judge(reward, judges[reward.name], security))
                await stack.enter_async_context(_running(asked))
                replicas.append(Pool([asked]))
                continue
            where = [reward.address] if reward.address else models.get(reward.name, own)
            opened: Open[Client] = partial(_client, reward, security, outage if reward.address else own_outage)
            clients = pool(where, opened, leave=lambda client: client.leave(), idle=lambda client: not client.waiting)
            replicas.append(await stack.enter_async_context(clients))
        yield Scoring(replicas)


@asynccontextmanager
async def _client(reward: Reward, security: rpc.Security, outage: float, address: str) -> AsyncIterator[Client]:
    """A RewardClient over an open channel, at work."""
    shown, transport = security, None
    if reward.address:
        shown, transport = rpc.Security.of_files(**reward.credentials.model_dump()), rpc.FOREIGN
    async with rpc.channel(address, security=shown, transport=transport) as channel:
        stub = reward_pb2_grpc.RewardServiceStub(channel)
        breathes = breath_of(address, shown) if reward.address and outage else None
        client = RewardClient(reward, address, stub, outage, breathes)
        async with _running(client):
            yield client


@asynccontextmanager
async def _running(client: Client) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(client.run())
        try:
            yield
        finally:
            running.cancel()
