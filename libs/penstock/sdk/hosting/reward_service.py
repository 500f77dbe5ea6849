"""`penstock.reward.v1.RewardService` over a set of scorers.

Invariant (`test_every_item_is_answered_exactly_once`): whatever the scorers do, every item of a request has one answer,
and an item's failure does not touch the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from penstock.reward.v1 import reward_pb2, reward_pb2_grpc
from penstock.rpc import Violation, invalid_argument, not_found
from penstock.sdk.hosting.wire import result_to_proto, sample_from_proto
from penstock.sdk.rewards import Scorer
from penstock.sdk.samples import Invalid, Result
from penstock.telemetry import metrics
from penstock.telemetry.waits import progress

MAX_ITEMS = 4096
_seconds = metrics.histogram(metrics.REWARD_SECONDS, "Time to score one item.", ["reward"])
_invalid = metrics.counter(metrics.REWARD_INVALID, "Items that could not be scored.", ["reward"])


class RewardService(reward_pb2_grpc.RewardServiceServicer):
    """Serves scorers by name.

    Args:
        at_once: items scored at the same time, over all requests.
    """

    def __init__(self, scorers: Iterable[Scorer], *, at_once: int = 64) -> None:
        self._scorers = {scorer.name: scorer for scorer in scorers}
        self._places = asyncio.Semaphore(at_once)

    async def Score(self, request: reward_pb2.ScoreRequest, context: Any) -> reward_pb2.ScoreResponse:  # noqa: N802
        """See the proto."""
        scorer = self._admit(request.reward, request.items)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(scorer, item)) for item in request.items]
        return reward_pb2.ScoreResponse(results=[task.result() for task in tasks])

    async def ScoreStream(  # noqa: N802
        self, request: reward_pb2.ScoreStreamRequest, context: Any
    ) -> AsyncIterator[reward_pb2.ScoreStreamResponse]:
        """See the proto."""
        scorer = self._admit(request.reward, request.items)
        tasks = [asyncio.create_task(self._one(scorer, item)) for item in request.items]
        try:
            for finished in asyncio.as_completed(tasks):
                yield reward_pb2.ScoreStreamResponse(result=await finished)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def Describe(  # noqa: N802
        self, request: reward_pb2.DescribeRequest, context: Any
    ) -> reward_pb2.DescribeResponse:
        """See the proto."""
        response = reward_pb2.DescribeResponse()
        for scorer in self._scorers.values():
            low, high = scorer.bounds
            response.rewards.add(
                name=scorer.name, summary=scorer.summary, minimum=low, maximum=high, max_items=MAX_ITEMS
            )
        return response

    def _admit(self, name: str, items: Sequence[reward_pb2.ScoreItem]) -> Scorer:
        """The scorer that is asked for; refuses repeated ids."""
        seen = set[str]()
        for index, item in enumerate(items):
            if item.id in seen:
                raise invalid_argument("item ids repeat", Violation(f"items[{index}].id", f"{item.id!r} came before"))
            seen.add(item.id)
        if not name and len(self._scorers) == 1:
            return next(iter(self._scorers.values()))
        if name not in self._scorers:
            served = ", ".join(sorted(self._scorers))
            raise not_found(
                f"no reward {name!r} here; served: {served}", reason="REWARD_UNKNOWN", metadata={"served": served}
            )
        return self._scorers[name]

    async def _one(self, scorer: Scorer, item: reward_pb2.ScoreItem) -> reward_pb2.ScoreResult:
        async with self._places:
            started = time.perf_counter()
            try:
                sample = sample_from_proto(item)
            except ValueError as error:
                result: Result = Invalid(f"malformed item: {error}"[:300])
            else:
                result = await scorer.score(sample)
            seconds = time.perf_counter() - started
        _seconds.labels(scorer.name).observe(seconds)
        if isinstance(result, Invalid):
            _invalid.labels(scorer.name).inc()
        progress()
        return result_to_proto(item.id, result, seconds)
