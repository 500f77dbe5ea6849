"""Tasks: at-least-once delivery of group tasks to whichever worker is free.

A task is delivered, held with automatic heartbeats, and either done, given back, or — when its holder dies — delivered
again after `ack_wait`. The server redelivers without end and the consumer counts: a task delivered more often than
`max_deliver` arrives marked `exhausted`, to be recorded as failed without being run. (With the server's own limit such
a task would silently stay in the stream, for instance when it kills every worker that runs it.)

Invariant (`test_every_task_is_done_or_delivered_again`): a published task is delivered until somebody has called
`done`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType

import nats.errors
from nats.aio.msg import Msg
from nats.js import api

from penstock.bus.connection import Bus
from penstock.bus.errors import BusError, BusTimeout, NotFound
from penstock.bus.pulling import ConsumerLost, Puller, puller
from penstock.names import RunNames, TaskKind

logger = logging.getLogger(__name__)
ACK_SECONDS = 10.0
_HEARTBEATS_PER_WAIT = 3


@dataclass(frozen=True)
class Backlog:
    """Tasks that are not done.

    Attributes:
        pending: never delivered yet.
        ack_pending: delivered, not done.
        oldest_age: seconds since the oldest of both was published; None where there is none.
    """

    pending: int
    ack_pending: int
    oldest_age: float | None


class Task:
    """One delivery. Hold it with `async with task:`; leaving the block without `done` gives it back.

    Attributes:
        sequence: in the stream of tasks.
        deliveries: how often it was delivered, this time included.
        last_delivery: if this delivery fails, the next arrives `exhausted`.
        exhausted: it failed `max_deliver` times; record that and call `done`, do not run it.
    """

    def __init__(self, consumer: TaskConsumer, message: Msg) -> None:
        self.subject: str = message.subject
        self.payload: bytes = message.data
        self.headers: dict[str, str] = dict(message.headers or {})
        self.sequence: int = message.metadata.sequence.stream
        self.deliveries: int = message.metadata.num_delivered
        self.last_delivery = self.deliveries >= consumer.max_deliver
        self.exhausted = self.deliveries > consumer.max_deliver
        self._consumer = consumer
        self._reply: str = message.reply
        self._settled = False
        self._heartbeat: asyncio.Task[None] | None = None

    async def done(self) -> None:
        """Tells the server that the task is finished, and waits until it knows.

        The server keeps acknowledgements in memory for a moment: after its kill -9 the last ones are forgotten and
        those tasks are delivered again. Delivery is at least once; exactly-once is the log's and the ledger's.

        Raises:
            BusTimeout: it may be delivered again; its results are idempotent by contract.
        """
        bus = self._consumer.bus
        await bus.ask(
            f"done {self.subject}",
            lambda: bus.client.request(self._reply, b"+ACK", timeout=bus.attempt_seconds),
        )
        self._settled = True

    async def retry(self, delay: float) -> None:
        """Gives the task back, to be delivered again (to anybody) after `delay` seconds."""
        self._settled = True
        await self._tell(b'-NAK {"delay": %d}' % int(delay * 1e9))

    async def _tell(self, verdict: bytes) -> None:
        """Fire and forget: if it is lost, `ack_wait` has the same effect later."""
        try:
            await self._consumer.bus.client.publish(self._reply, verdict)
        except nats.errors.Error as error:
            logger.info("cannot send %s: %s", verdict, error, extra={"subject": self.subject})

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._consumer.ack_wait / _HEARTBEATS_PER_WAIT)
            await self._tell(b"+WPI")

    async def __aenter__(self) -> Task:
        self._heartbeat = asyncio.create_task(self._beat(), name=f"heartbeat {self.subject}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._heartbeat is not None
        self._heartbeat.cancel()
        await asyncio.gather(self._heartbeat, return_exceptions=True)
        if not self._settled:
            await self.retry(0.0 if isinstance(error, asyncio.CancelledError) else self._consumer.retry_delay)
        self._consumer.release()


class TaskConsumer:
    """The tasks of one kind, shared by all workers of a run.

        consumer = TaskConsumer(bus, names, "train", ack_wait=30, max_deliver=4, max_in_flight=8)
        async for task in consumer:
            group.create_task(run(task))        # run: `async with task: ...; await task.done()`

    Args:
        ack_wait: seconds without heartbeat after which a task counts as abandoned.
        max_deliver: deliveries before a task is `exhausted`.
        max_in_flight: tasks that this worker holds at once; iteration waits for a free place.
        retry_delay: seconds before a task whose block failed is delivered again.
    """

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        kind: TaskKind,
        *,
        ack_wait: float = ACK_SECONDS,
        max_deliver: int = 4,
        max_in_flight: int = 1,
        retry_delay: float = 1.0,
    ) -> None:
        self.bus = bus
        self.ack_wait = ack_wait
        self.max_deliver = max_deliver
        self.retry_delay = retry_delay
        self._stream = names.tasks
        self._durable = names.consumer(kind)
        self._filter = names.task_filter(kind)
        self._places = asyncio.Semaphore(max_in_flight)

    def release(self) -> None:
        """Frees the place of a task (called when its block ends)."""
        self._places.release()

    async def ensure(self) -> None:
        """Makes the durable consumer where there is none like it. Idempotent; iteration does it by itself.

        A user that may make none (a rollout, by the table of penstock.access) finds what the run's launcher made.
        """
        config = api.ConsumerConfig(
            durable_name=self._durable,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self.ack_wait,
            max_deliver=-1,
            max_ack_pending=65536,
            filter_subject=self._filter,
        )
        what = f"consumer {self._durable}"
        try:
            found = await self.bus.ask(what, lambda: self.bus.js.consumer_info(self._stream, self._durable))
            if found.config.ack_wait == self.ack_wait:
                return
        except NotFound:
            logger.info("making consumer %s", self._durable)
        await self.bus.ask(what, lambda: self.bus.js.add_consumer(self._stream, config))

    def __aiter__(self) -> AsyncGenerator[Task, None]:
        return self._tasks()

    async def _tasks(self) -> AsyncGenerator[Task, None]:
        while True:
            try:
                await self.ensure()
                async with puller(self.bus, self._stream, self._durable) as pull:
                    while True:
                        await self._places.acquire()
                        message = await self._next(pull)
                        yield Task(self, message)
            except (ConsumerLost, BusTimeout) as error:
                logger.info("asking for tasks again: %s", error, extra={"consumer": self._durable})

    async def _next(self, pull: Puller) -> Msg:
        """One delivery. One request each: a task that lay in a local queue would use up its `ack_wait` there."""
        try:
            while True:
                async with aclosing(pull.pull(1, wait=True)) as messages:  # type: ignore[type-var]
                    async for message in messages:
                        return message
        except BaseException:
            self.release()
            raise

    async def backlog(self) -> Backlog:
        """What waits; the autoscaler's and the coordinator's figure.

        Raises:
            NotFound: no worker has made the consumer yet and `ensure` was not called.
        """
        what = f"backlog of {self._durable}"
        info = await self.bus.ask(what, lambda: self.bus.js.consumer_info(self._stream, self._durable))
        pending, ack_pending = info.num_pending or 0, info.num_ack_pending or 0
        if not pending and not ack_pending:
            return Backlog(0, 0, None)
        floor = info.ack_floor.stream_seq if info.ack_floor else 0
        try:
            oldest = await self.bus.ask(
                what, lambda: self.bus.js.get_msg(self._stream, seq=floor + 1, subject=self._filter, next=True)
            )
        except NotFound:
            return Backlog(pending, ack_pending, None)
        if not isinstance(oldest.time, datetime):
            raise BusError(f"the server gave no time for sequence {oldest.seq}")
        return Backlog(pending, ack_pending, (datetime.now(UTC) - oldest.time).total_seconds())
