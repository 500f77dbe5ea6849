"""A channel that is opened again when its certificates change: gRPC reads a client's certificate once.

Calls in progress end on the channel that they began on, which is closed when the last of them is over or after GRACE.

Invariant (test name): a call after a renewal shows the new certificate, and one in progress is not ended by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from penstock.rpc.certificates import Certificates

GRACE_SECONDS = 3600.0
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Renewing:
    """Looks like the channel that `opened` gives, which is called again whenever the certificates have changed."""

    def __init__(self, opened: Callable[[], grpc.aio.Channel], certificates: Certificates) -> None:
        self._opened, self._certificates = opened, certificates
        self._channel, self._changes = opened(), certificates.changes
        self._closing: set[asyncio.Task[None]] = set()

    def current(self) -> grpc.aio.Channel:
        """The channel that a call of now belongs on."""
        self._certificates.refresh()
        if self._certificates.changes != self._changes:
            former, self._channel, self._changes = self._channel, self._opened(), self._certificates.changes
            closing = asyncio.get_running_loop().create_task(former.close(GRACE_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return self._channel

    async def close(self) -> None:
        """Ends every call."""
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close()

    def __getattr__(self, name: str) -> Any:
        if name not in KINDS:
            return getattr(self.current(), name)

        def method(*settings: Any, **more: Any) -> Callable[..., Any]:
            def call(*request: Any, **options: Any) -> Any:
                return getattr(self.current(), name)(*settings, **more)(*request, **options)

            return call

        return method
