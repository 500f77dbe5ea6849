"""The other ranks' side of a version that rank 0 publishes: each puts its part, as it is told (`together.py`)."""

import asyncio
import logging
import socket
import threading
from collections.abc import Sequence

import grpc
from torch import Tensor

from penstock import rpc
from penstock.rpc import Security
from services.learner.publishing.bulk import Bulk
from services.learner.publishing.differences import Differences
from services.learner.publishing.parts import Part, Place
from services.learner.publishing.putting import put
from services.learner.publishing.together import (
    TOGETHER_SECONDS,
    UNREACHED,
    Over,
    Said,
    Together,
    failure,
    offer,
    outcome,
    remember,
)

logger = logging.getLogger(__name__)
REACH_SECONDS = 10.0
LEAVE_SECONDS = 20.0
"""For which a learner that ends waits for the version under way."""


async def _reached(channel: grpc.aio.Channel, address: str) -> None:
    try:
        await rpc.ready(channel, "weight_sync", within=REACH_SECONDS)
    except rpc.RpcError as error:
        text = f"weight_sync cannot be reached at {address} from {socket.gethostname()}: {error.message}"
        raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, text, reason=UNREACHED) from error


class Follower:
    """One rank's, beside its training. host: its boot id; full_every: as rank 0's."""

    def __init__(self, ranks: Together, security: Security, host: str | None, full_every: int) -> None:
        self._ranks, self._security, self._host = ranks, security, host
        self._kept, self._bulk = Differences(full_every), Bulk(security)
        self._thread: threading.Thread | None = None
        self._failed: Exception | None = None

    def begin(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        """Begins to take part in the next version, when the one before is over. Raises what that one raised."""
        self.settle()
        part = Part(tensors)
        self._thread = threading.Thread(target=self._caught, args=(part,), name="publishing", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Waits until the version under way is over. Raises what went wrong."""
        if self._thread is not None:
            self._thread.join(TOGETHER_SECONDS)
            if self._thread.is_alive():
                raise TimeoutError(f"rank 0 has not ended a version within {TOGETHER_SECONDS:g} s")
            self._thread = None
        if self._failed is not None:
            raise self._failed

    def leave(self) -> None:
        """Gives the version under way as long as rank 0 does, and lets it be."""
        if self._thread is not None:
            self._thread.join(2 * LEAVE_SECONDS)
            self._thread = None
        if self._failed is not None:
            logger.warning("the version under way is left to the next learner: %s", self._failed)

    def _caught(self, part: Part) -> None:
        try:
            self._follow(part)
        except Exception as error:  # the thread's boundary: raised by `settle`
            self._failed = error

    def _follow(self, part: Part) -> None:
        try:
            own = offer(part, self._kept)
        except Exception as error:  # rank 0 is told, and ends
            own = failure(error)
        self._ranks.gathered(own)
        while "place" in (said := self._ranks.told(None)):
            self._ranks.gathered(self._put(Place(**said["place"]), part))
        remember(self._kept, part, Over(**said["over"]))

    def _put(self, place: Place, part: Part) -> Said:
        async def there() -> bool:
            async with rpc.channel(place.address, security=self._security) as channel:
                await _reached(channel, place.address)
                return await put(channel, place, pieces, self._host, self._bulk)

        try:
            pieces = part.pieces(place)
            if place.alone or not pieces:
                return outcome(False, pieces)
            return outcome(asyncio.run(there()))
        except Exception as error:  # rank 0 is told, and begins again or ends
            logger.warning("this rank's part of version %d was not pushed: %s", place.step, error)
            return failure(error)
