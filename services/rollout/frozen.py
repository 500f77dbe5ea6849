"""Another team's service whose process is frozen is away, whatever its kernel still accepts.

A call that came to its deadline says nothing of why. A process that is only busy greets a new connection all the same;
one that is stopped, or whose host is, does not.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import grpc

from penstock import rpc

T = TypeVar("T")
Breathes = Callable[[], Awaitable[bool]]
"""Whether a process answers there now."""
BREATH_SECONDS = 2.0
"""Within which another team's process greets a new connection, however busy it is."""
TOO_MUCH = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
FROZEN = "the connection stands, and nobody answers on it: the service is frozen"


def breath_of(address: str, security: rpc.Security) -> Breathes:
    """That of another team's service."""
    return partial(rpc.breathes, address, security=security, transport=rpc.FOREIGN, within=BREATH_SECONDS)


class Attempts:
    """Attempts at one thing, of which those that come too late because nobody answers there end UNAVAILABLE.

    breathes: None where that is not to be asked. The attempt during which a frozen process goes on may come too late
    too, and says nothing of the process either.
    """

    def __init__(self, breathes: Breathes | None) -> None:
        self._breathes, self._frozen = breathes, False

    async def attempt(self, call: Awaitable[T]) -> T:
        """What the call gives. Raises its RpcError, or UNAVAILABLE in its place."""
        try:
            return await call
        except rpc.RpcError as error:
            if error.code not in TOO_MUCH or self._breathes is None:
                raise
            before, self._frozen = self._frozen, not await self._breathes()
            if not (before or self._frozen):
                raise
            raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, FROZEN) from error
