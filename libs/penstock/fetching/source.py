"""Where a version may be had: weight_sync itself, or a relay, with which nobody has much patience."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass

import grpc

from penstock import rpc
from penstock.fetching.bulk import Bulk

FETCHING = "FETCHING"
"""The reason of a relay that has not the version yet, and is fetching it: it is asked again."""
FETCHING_PAUSE = 0.1
"""Before it is asked again, also where it says so at once."""
FETCHING_SECONDS = 60.0
"""For so long: weight_sync may be reached though the relay does not reach it."""
SILENT_SECONDS = 3.0
"""A relay that says nothing for so long is passed over."""
ANSWER_SECONDS = 1.5
"""Within which a relay answers, if only that it is fetching."""
ATTEMPTS = 5
"""At a stream of weight_sync that breaks."""


@dataclass(frozen=True)
class Source:
    """relay: its name; empty for weight_sync. bulk: its socket for whole versions."""

    channel: grpc.aio.Channel
    bulk: Bulk | None = None
    relay: str = ""

    @property
    def name(self) -> str:
        """As people and the list of waits know it."""
        return self.relay or "weight_sync"

    @property
    def ready_seconds(self) -> float:
        """Within which it is connected; a pause between two attempts is a second."""
        return ANSWER_SECONDS if self.relay else 30.0

    @property
    def silent_seconds(self) -> float:
        """After which it is gone, where no byte comes, or no answer."""
        return SILENT_SECONDS if self.relay else 30.0

    @property
    def fetching_seconds(self) -> float:
        """For which it may say that it is fetching."""
        return FETCHING_SECONDS if self.relay else 0.0

    @property
    def attempts(self) -> int:
        """At a stream that breaks."""
        return 1 if self.relay else ATTEMPTS

    async def flowing(self, messages: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """The messages of a stream. Raises Unavailable where none comes in time."""
        coming = aiter(messages)
        while True:
            try:
                async with asyncio.timeout(self.silent_seconds):
                    message = await anext(coming, None)
            except TimeoutError as error:
                text = f"{self.name} sent nothing for {self.silent_seconds:g} s"
                raise rpc.errors.Unavailable(grpc.StatusCode.UNAVAILABLE, text) from error
            if message is None:
                return
            yield message
