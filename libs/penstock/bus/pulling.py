"""Pull requests to a JetStream consumer, one at a time, with silence noticed within seconds.

The NATS client's `fetch` sends two requests per call and leaves requests behind that swallow later messages; a lost
consumer looks like an idle one. Here every request has its own reply subject and asks for a heartbeat: whoever hears
neither message nor heartbeat for `SILENCE_SECONDS` knows that the consumer or the server is gone.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from penstock.bus.connection import Bus

EXPIRES_SECONDS = 30.0
HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 2.5
_NANO = 1_000_000_000


class ConsumerLost(Exception):
    """The consumer does not answer any more; make it again."""


class Puller:
    """The inbox of one reader. Use `puller` to make one."""

    def __init__(self, bus: Bus, stream: str, consumer: str, inbox: str) -> None:
        self._bus = bus
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = inbox
        self._numbers = itertools.count()
        self.queue: asyncio.Queue[Msg] = asyncio.Queue()

    async def pull(self, batch: int, *, wait: bool, max_bytes: int | None = None) -> AsyncIterator[Msg]:
        """One request: yields up to `batch` messages.

        Args:
            wait: wait up to 30 s for messages; otherwise take what is there.
            max_bytes: stop at about this many bytes.

        Raises:
            ConsumerLost: silence, or the server says that the consumer is gone.
        """
        number = str(next(self._numbers))
        request: dict[str, object] = {"batch": batch}
        if wait:
            request |= {"expires": int(EXPIRES_SECONDS * _NANO), "idle_heartbeat": int(HEARTBEAT_SECONDS * _NANO)}
        else:
            request["no_wait"] = True
        if max_bytes is not None:
            request["max_bytes"] = max_bytes
        body = json.dumps(request).encode()
        try:
            await self._bus.client.publish(self._subject, body, reply=f"{self._inbox}.{number}")
        except Exception as error:
            raise ConsumerLost(f"cannot send the request: {error}") from error
        received = 0
        while received < batch:
            message = await self._next()
            status = (message.headers or {}).get("Status") if not message.data else None
            if status is None:
                received += 1
                yield message
                continue
            if message.subject.rsplit(".", 1)[1] != number or status == "100":
                continue  # the end of an older request, or a heartbeat
            text = (message.headers or {}).get("Description", "")
            if status in ("404", "408") or (status == "409" and _is_end_of_request(text)):
                return
            raise ConsumerLost(f"{status} {text}")

    async def _next(self) -> Msg:
        try:
            return self.queue.get_nowait()
        except asyncio.QueueEmpty:
            pass
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                return await self.queue.get()
        except TimeoutError as error:
            raise ConsumerLost(f"silent for {SILENCE_SECONDS} s") from error


def _is_end_of_request(description: str) -> bool:
    text = description.lower()
    return "batch completed" in text or "exceeds maxbytes" in text or "exceeded maxrequest" in text


@asynccontextmanager
async def puller(bus: Bus, stream: str, consumer: str) -> AsyncIterator[Puller]:
    """Opens an inbox for pulling from a consumer; closed with the block, which also ends requests at the server."""
    inbox = bus.client.new_inbox()
    pull = Puller(bus, stream, consumer, inbox)

    async def receive(message: Msg) -> None:
        pull.queue.put_nowait(message)

    subscription: Subscription = await bus.client.subscribe(
        f"{inbox}.*", cb=receive, pending_msgs_limit=-1, pending_bytes_limit=-1
    )
    try:
        yield pull
    finally:
        if not bus.client.is_closed:
            await asyncio.shield(_forget(subscription))


async def _forget(subscription: Subscription) -> None:
    try:
        async with asyncio.timeout(1):
            await subscription.unsubscribe()
    except Exception:  # the connection is down: the server has forgotten the subscription already
        return
