"""Rank 0's connections, on a thread with an event loop of its own: training never waits for a socket by accident.

The training thread calls the plain methods; each hands a coroutine to the loop and waits for its end, with a bound.
Publishing runs in the background: at most one version is under way while the next step trains.
"""

import asyncio
import concurrent.futures
import logging
import pathlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeVar

from torch import Tensor

from penstock import rpc
from penstock.bus import Bucket, Bus, KeyConflict, RunNames, connect, trim
from penstock.learner.v1 import learner_pb2_grpc
from penstock.rpc import Security, Server
from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1.weights_pb2 import Adapters
from services.learner.interface.group import CompleteGroup
from services.learner.leader.feed import Feed
from services.learner.leader.publishing import publish
from services.learner.leader.server import Learner, Status

logger = logging.getLogger(__name__)
T = TypeVar("T")
PUBLISH_SECONDS = 300.0


class Leader:
    """Made by `leading`. Every method may be called from the training thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, status: Status) -> None:
        self.status = status
        self.feed: Feed
        self.bus: Bus
        self.names: RunNames
        self._loop = loop
        self._channel: Any = None
        self._publishing: concurrent.futures.Future[bool] | None = None
        self._following: asyncio.Task[None] | None = None

    def batch(self, step: int, within: float) -> list[CompleteGroup] | None:
        """The recorded batch of `step`, or None if there is none within `within` seconds."""
        self._check_following()
        return self._do(self.feed.batch(step, within), within + 300)

    def report(self, report: pb.StepReport) -> None:
        """Appends a step's report to the ledger."""
        self._do(self.feed.report(report), 150)

    def evaluated(self, report: pb.EvaluationReport) -> None:
        """Appends a measurement of held-out rows to the ledger."""
        self._do(self.feed.evaluated(report), 150)

    def trained(self, step: int) -> None:
        """The weights are now at `step`."""
        self._do(_later(lambda: self.feed.trained(step)), 30)

    def cursor(self) -> int:
        """The log position that belongs to the current weights."""
        return self._do(_later(self.feed.cursor), 30)

    def trim_log(self, before: int) -> None:
        """Gives room in the log: nothing at or before `before` is needed any more."""
        self._do(trim(self.bus, self.names.log, before=before + 1), 60)

    def publish(self, step: int, tensors: Sequence[tuple[str, Tensor]], adapters: Adapters | None = None) -> None:
        """Begins to publish a version; waits first for the one before it. Raises what that one raised.

        adapters: said of the tensors where they are these alone.
        """
        self.published()
        coroutine = publish(self._channel, self.status.epoch, step, tensors, PUBLISH_SECONDS, adapters)
        self._publishing = asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def published(self) -> None:
        """Waits until the version under way is READY."""
        if self._publishing is not None:
            self._publishing.result(PUBLISH_SECONDS + 60)
            self._publishing = None

    async def open(
        self,
        stack: AsyncExitStack,
        *,
        nats: str,
        weight_sync: str,
        names: RunNames,
        security: Security,
        make_server: Callable[[], Server],
        announce: pathlib.Path | None,
        make_feed: Callable[[Bus, int], Feed],
        checkpoints: str,
    ) -> None:
        """Connects, takes a new epoch, follows the streams, serves. Runs on the loop."""
        self.names = names
        self.bus = await stack.enter_async_context(connect(nats, name="learner", within=60))
        self._channel = await stack.enter_async_context(rpc.channel(weight_sync, security=security))
        self.status.epoch = await _next_epoch(self.bus, names)
        self.feed = make_feed(self.bus, self.status.epoch)
        self._following = asyncio.create_task(self.feed.run(), name="feed")
        stack.push_async_callback(_cancel, self._following)
        server = await stack.enter_async_context(make_server())
        server.add(learner_pb2_grpc.add_LearnerServiceServicer_to_server, Learner(self.status, self.feed, checkpoints))
        await server.start()
        if announce is not None:
            server.announce(announce)

    def _check_following(self) -> None:
        if self._following is not None and self._following.done():
            self._following.result()

    def _do(self, coroutine: Coroutine[Any, Any, T], within: float) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(within)


@contextmanager
def leading(status: Status, **settings: Any) -> Iterator[Leader]:
    """A Leader whose thread and connections live as long as the block. `settings` are those of Leader.open."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="leader", daemon=True)
    thread.start()
    leader, stack = Leader(loop, status), AsyncExitStack()
    try:
        leader._do(leader.open(stack, **settings), 120)
        yield leader
    finally:
        leader._do(stack.aclose(), 60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _next_epoch(bus: Bus, names: RunNames) -> int:
    """The next incarnation number of this run's learner, taken atomically."""
    bucket = Bucket(bus, names)
    while True:
        held = await bucket.get("learner_epoch")
        try:
            if held is None:
                await bucket.create("learner_epoch", b"1")
                return 1
            epoch = int(held.value) + 1
            await bucket.update("learner_epoch", str(epoch).encode(), held.revision)
            return epoch
        except KeyConflict:
            logger.info("another learner starts at the same moment")


async def _later(call: Callable[[], T]) -> T:
    return call()


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
