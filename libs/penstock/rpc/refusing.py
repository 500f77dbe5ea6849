"""Which exception of a service is which status: one table per service instead of a ladder per handler.

    ERRORS: rpc.Refusals = {
        NotStaged: partial(rpc.not_found, reason="NOT_STAGED"),
        NoRoom: partial(rpc.resource_exhausted, reason="NO_ROOM"),
    }

    with rpc.refusing(ERRORS):
        self._store.commit(version)

Invariant (test names): the most specific class of the table decides; an exception that no class of it covers passes
unchanged, and becomes INTERNAL at the boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from penstock.rpc.errors import Abort

Refusals = Mapping[type[Exception], Callable[[str], Abort]]


@contextmanager
def refusing(table: Refusals) -> Iterator[None]:
    """Turns an exception of the block into the status that the table gives its class; its text is the message."""
    try:
        yield
    except Abort:
        raise
    except tuple(table) as error:
        refuse = next(table[kind] for kind in type(error).__mro__ if kind in table)
        raise refuse(str(error)) from error
