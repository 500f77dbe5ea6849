"""Hearing what is published, as it is published: no stream keeps it for the hearer, and what is missed is missed.

For those who need to know at once that something has changed, and ask the stream what it is now. It needs no consumer,
which some users may not make, and costs the server nothing per hearer but the message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import nats.errors
from nats.aio.msg import Msg

from penstock.bus.connection import Bus

MOST_UNHEARD = 65536


@dataclass(frozen=True)
class Heard:
    """A message that somebody published; a stream may have refused it."""

    subject: str
    payload: bytes


@asynccontextmanager
async def hearing(bus: Bus, *subjects: str) -> AsyncIterator[asyncio.Queue[Heard]]:
    """What is published under these subjects from now on, in a queue, until the end of the block; also over
    reconnections, which `Bus.reconnections` counts. Beyond MOST_UNHEARD messages the newest are dropped."""
    queue: asyncio.Queue[Heard] = asyncio.Queue(MOST_UNHEARD)

    async def take(message: Msg) -> None:
        if not queue.full():
            queue.put_nowait(Heard(message.subject, message.data))

    made = [await bus.client.subscribe(subject, cb=take) for subject in subjects]
    await bus.ask("hearing of a run", bus.client.flush)
    try:
        yield queue
    finally:
        for each in made:
            try:
                await each.unsubscribe()
            except nats.errors.Error:
                break  # the connection is gone, and its subscriptions with it
