"""One reward of one service, asked in batches that form by themselves.

While one call is under way, items gather; the next call takes them all. So a slow reward gets large batches, a fast
one has no delay, and nobody configures a batch size.

A call has the reward's time. What was answered within it counts; what was not is asked again, in batches no larger
than what was answered: a slow service makes a run slower, not wrong. An item that two calls left unanswered is asked
alone, when nothing else waits; only there does it fail for its slowness, so that one that hangs costs no other its
score, and no item fails for a worker that a sibling kept busy.

A service that is away (nobody answers: UNAVAILABLE) is asked again, whatever the reward's time: its items wait, and are
scored once it is back. Another team's may be away for `limits.outage_seconds`, also as a process that is frozen; one of
the run's until its groups are over. One that answers wrongly fails them at once. One that leaves the run has its items
moved (`Moved`).

    8 items, 2 hang, one worker, 30 s: 5 answered; of the last 3 one is; the 2 that hang fail, alone.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Protocol

import grpc

from penstock import rpc
from penstock.recipes.sections import Reward
from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc
from penstock.sdk import Invalid, Scored, checked_results
from services.rollout.failures import RewardFailed
from services.rollout.frozen import TOO_MUCH, Attempts, Breathes

MAX_ITEMS = 256
AWAY = rpc.Retry((grpc.StatusCode.UNAVAILABLE,))
UNANSWERED = 3  # calls; the last of them has the item alone, when nothing else waits
# What says that a method is missing; a server made of gRPC's generated class raises, which is no clearer.
_NO_STREAM = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


def beyond(reward: Reward, score: Scored) -> str:
    """What of a score the recipe does not allow; empty if it is as agreed."""
    if reward.least is not None and score.value < reward.least:
        return f"value {score.value:g} is below least {reward.least:g}"
    if reward.greatest is not None and score.value > reward.greatest:
        return f"value {score.value:g} is above greatest {reward.greatest:g}"
    unknown = sorted(set(score.components) - set(reward.components)) if reward.components is not None else []
    return f"component {unknown[0]!r} is none of {', '.join(reward.components or ()) or 'none'}" if unknown else ""


@dataclasses.dataclass
class _Pending:
    item: pb.ScoreItem
    answer: asyncio.Future[Scored]
    unanswered: int = 0
    since: float = dataclasses.field(default_factory=time.monotonic)


class Pace:
    """How many items a call may have: twice as many after one that was quick, no more than were answered after one
    that was too slow (pure)."""

    def __init__(self, limit: float, most: int = MAX_ITEMS) -> None:
        self.most, self._limit = most, limit

    def after(self, asked: int, answered: int, seconds: float) -> None:
        """Learns from a call."""
        if answered < asked:
            self.most = max(1, min(answered, asked // 2))
        elif seconds < self._limit / 2:
            self.most = min(MAX_ITEMS, 2 * self.most)


class Moved(Exception):
    """Whoever was to score an item has left the run: another one is asked."""


class Client(Protocol):
    """One reward of whoever gives it."""

    @property
    def reward(self) -> Reward: ...

    @property
    def waiting(self) -> int:
        """Items that have no answer yet."""
        ...

    def leave(self) -> None:
        """Gets no new items: what it has not been asked for yet is somebody else's (Moved)."""
        ...

    def score(self, item: pb.ScoreItem) -> asyncio.Future[Scored]:
        """The item's score, or RewardFailed."""
        ...

    async def run(self) -> None:
        """Answers for ever."""
        ...


class RewardClient:
    """One reward of one service. waiting: items that have no answer yet; outage: seconds for which it may be
    away; breathes: says whether a process answers there, where that is to be asked."""

    def __init__(
        self,
        reward: Reward,
        address: str,
        stub: reward_pb2_grpc.RewardServiceAsyncStub,
        outage: float = 0.0,
        breathes: Breathes | None = None,
    ) -> None:
        self.reward, self.address, self._stub, self._outage = reward, address, stub, outage
        self._breathes = breathes
        self.pace = Pace(reward.timeout_seconds)
        self._queue: asyncio.Queue[_Pending] = asyncio.Queue()
        self._alone = collections.deque[_Pending]()
        self._streams, self._streamed = True, False
        self._left = False
        self.waiting = 0

    def score(self, item: pb.ScoreItem) -> asyncio.Future[Scored]:
        """The item's score, or RewardFailed. The item waits from now on, whenever the answer is awaited."""
        pending = _Pending(item, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(pending)
        self.waiting += 1
        pending.answer.add_done_callback(self._answered)
        return pending.answer

    def _answered(self, _: asyncio.Future[Scored]) -> None:
        self.waiting -= 1

    def leave(self) -> None:
        """Gets no new items; what waits is moved, what is under way may still be answered."""
        self._left = True
        while not self._queue.empty():
            self._alone.append(self._queue.get_nowait())
        self._move(self._alone)
        self._alone.clear()

    def _move(self, pending: Iterable[_Pending]) -> None:
        for each in pending:
            if not each.answer.done():
                each.answer.set_exception(Moved())

    async def run(self) -> None:
        """Calls the service for whatever has gathered, for ever."""
        while True:
            if self._alone and self._queue.empty():
                batch = [self._alone.popleft()]
            else:
                batch = [await self._queue.get()]
                while len(batch) < self.pace.most and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
            await self._call([p for p in batch if not p.answer.done()])

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
        answers: list[pb.ScoreResult] = []
        started = time.monotonic()
        try:
            await self._ask(request, answers, min(p.since for p in batch) + self._outage - started)
        except rpc.RpcError as error:
            told = {answer.id for answer in answers}
            left = [pending for key, pending in waiting_for.items() if key not in told]
            if self._left:
                self._move(left)
            elif error.code not in TOO_MUCH or (len(batch) == 1 and batch[0].unanswered + 1 >= UNANSWERED):
                self._fail(left, str(error))
            else:
                self.pace.after(len(batch), len(batch) - len(left), time.monotonic() - started)
                self._again(left)
            waiting_for = {key: pending for key, pending in waiting_for.items() if key in told}
        else:
            self.pace.after(len(batch), len(batch), time.monotonic() - started)
        for key, result in checked_results(list(waiting_for), answers).items():
            pending = waiting_for[key]
            if isinstance(result, Invalid):
                self._fail([pending], result.reason)
            elif problem := beyond(self.reward, result):
                self._fail([pending], problem)
            elif not pending.answer.done():
                pending.answer.set_result(result)

    def _again(self, left: Iterable[_Pending]) -> None:
        for pending in left:
            pending.unanswered += 1
            if pending.unanswered + 1 >= UNANSWERED:
                self._alone.append(pending)
            else:
                self._queue.put_nowait(pending)

    async def _ask(self, request: pb.ScoreRequest, answers: list[pb.ScoreResult], outage: float) -> None:
        """Collects the answers, those of a call that failed too. A call is idempotent: it is repeated while the service
        is unavailable, within the reward's time, or that of an outage."""
        limit = self.reward.timeout_seconds
        what, on = f"{len(request.items)} scores of {self.reward.name}", f"reward {self.address}"
        attempts = Attempts(self._breathes)

        async def attempt(left: float) -> None:
            if self._left:
                raise rpc.RpcError(grpc.StatusCode.CANCELLED, "the service has left the run")
            await attempts.attempt(self._attempt(request, answers, min(left, limit)))

        await rpc.retried(AWAY, max(limit, outage), attempt, what=what, on=on)

    async def _attempt(self, request: pb.ScoreRequest, answers: list[pb.ScoreResult], left: float) -> None:
        answers.clear()
        if self._streams:
            streamed = pb.ScoreStreamRequest(request_id=request.request_id, reward=request.reward, items=request.items)
            try:
                with rpc.translated():
                    async for answer in self._stub.ScoreStream(streamed, timeout=left):
                        answers.append(answer.result)
                        self._streamed = True
                return
            except rpc.RpcError as error:
                if self._streamed or error.code not in _NO_STREAM:
                    raise
                self._streams = False  # a foreign service that has the batch call alone
        answers += (await rpc.call(self._stub.Score(request, timeout=left))).results

    def _fail(self, pending: Iterable[_Pending], reason: str) -> None:
        for each in pending:
            if not each.answer.done():
                each.answer.set_exception(RewardFailed(f"{self.reward.name}: {reason}"))
