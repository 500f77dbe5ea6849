"""Tickets of the bulk socket: who shows one gets the bytes that it was made for, or brings them, once. Pure.

Invariant (test name): a ticket is good once and for TICKET_SECONDS, and no more than MOST are out.
"""

import dataclasses
import pathlib
import secrets
from collections.abc import Callable
from typing import Protocol

TICKET_BYTES = 32
TICKET_SECONDS = 30.0
MOST = 1024


@dataclasses.dataclass(frozen=True)
class Grant:
    """What a ticket is for: the bytes of a file from `offset` to `end`."""

    path: pathlib.Path
    offset: int
    end: int


class Taking(Protocol):
    """Takes bytes of a version that is pushed; each method raises what is wrong with them."""

    def seek(self, offset: int) -> None:
        """The next ones begin there."""

    def feed(self, data: memoryview) -> int:
        """These are the next ones."""

    def check_whole(self) -> None:
        """What came so far is whole tensors."""

    def close(self) -> None:
        """No more come."""


@dataclasses.dataclass(frozen=True)
class Intake:
    """What a ticket is for: bytes of a version that is pushed, which holds nothing until the ticket is shown."""

    begin: Callable[[], Taking]


For = Grant | Intake


class Tickets:
    """Those that are out. `redeem` may be called by any thread, `issue` by one at a time."""

    def __init__(self) -> None:
        self._out: dict[bytes, tuple[For, float]] = {}

    def issue(self, grant: For, now: float) -> bytes:
        """A new ticket; of too many the oldest is good no more."""
        for ticket, (_, until) in list(self._out.items()):
            if until > now and len(self._out) < MOST:
                break
            self._out.pop(ticket, None)
        made = secrets.token_bytes(TICKET_BYTES)
        self._out[made] = (grant, now + TICKET_SECONDS)
        return made

    def redeem(self, ticket: bytes, now: float) -> For | None:
        """What a ticket is for, and it is used; None for one that is none, or none any more."""
        grant, until = self._out.pop(ticket, (None, now))
        return grant if now < until else None
