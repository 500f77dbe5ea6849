"""Those who do one kind of work for this worker, as they come and go.

Where they are is told by addresses, which stay, or followed in the run's membership: a READY one is opened and used;
one that drains or is gone gets nothing new, and is closed when it has no more to do, or with the pool.

Invariant (test name): whoever is READY is in the pool, once, and nobody else is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

from penstock.membership import Watcher, beside
from penstock.telemetry.waits import waiting

logger = logging.getLogger(__name__)
T = TypeVar("T")
LOOK_SECONDS = 5.0
"""How often it is looked whether one that has left is done; coming and leaving are heard at once."""


@dataclass(frozen=True)
class Members:
    """The members of a kind (that give the reward `serves`), those of `zone` first."""

    watcher: Watcher
    kind: str
    serves: str = ""
    zone: str = ""

    def holding(self, step: int) -> set[str]:
        """Addresses of those that may hold this version of the policy: whoever says it, or says of none."""
        ready = self.watcher.view.ready(self.kind, self.serves)
        return {m.address for m in ready if not m.HasField("step") or m.step == step}

    def passed(self, step: int) -> bool:
        """Whether all of them hold a later version, so that nobody will hold this one again."""
        ready = self.watcher.view.ready(self.kind, self.serves)
        return bool(ready) and all(m.HasField("step") and m.step > step for m in ready)


Where = Sequence[str] | Members
Open = Callable[[str], AbstractAsyncContextManager[T]]


class Pool(Sequence[T], Generic[T]):
    """Those that get new work now. Made by `pool`, or of those that stay. changes: how often they became others."""

    def __init__(self, members: Sequence[T] = ()) -> None:
        self._members, self.changes = list(members), 0
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        return len(self._members)

    @overload
    def __getitem__(self, at: int) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...

    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        return self._members[at]

    def __iter__(self) -> Iterator[T]:
        return iter(self._members)

    async def some(self, what: str, *, on: str, within: float) -> bool:
        """Waits, listed, until there is one; False if there is none after `within` seconds."""
        if self._members:
            return True
        with waiting(what, on=on, deadline=within), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within), self._changed:
                await self._changed.wait_for(lambda: bool(self._members))
        return bool(self._members)

    async def become(self, members: Sequence[T]) -> None:
        """These get new work from now on."""
        async with self._changed:
            self._members[:] = members
            self.changes += 1
            self._changed.notify_all()


@asynccontextmanager
async def pool(
    where: Where,
    open_one: Open[T],
    *,
    leave: Callable[[T], None] = lambda each: None,
    idle: Callable[[T], bool] = lambda each: False,
) -> AsyncIterator[Pool[T]]:
    """A Pool for the block.

    Args:
        open_one: opens one by its address.
        leave: called with one that gets nothing new.
        idle: whether one that has left has nothing more to do, and may be closed.
    """
    async with AsyncExitStack() as stack:
        if not isinstance(where, Members):
            yield Pool([await stack.enter_async_context(open_one(address)) for address in where])
            return
        found = Pool[T]()
        await stack.enter_async_context(beside(_keep(where, found, open_one, leave, idle)))
        yield found


async def _keep(
    where: Members, found: Pool[T], open_one: Open[T], leave: Callable[[T], None], idle: Callable[[T], bool]
) -> None:
    """Follows the members for ever."""
    opened: dict[tuple[str, int, str], tuple[T, AsyncExitStack]] = {}
    left: list[tuple[T, AsyncExitStack]] = []
    refused: set[tuple[str, int, str]] = set()
    try:
        while True:
            seen = where.watcher.changes
            ready = where.watcher.view.ready(where.kind, where.serves, zone=where.zone)
            wanted = {(m.instance, m.incarnation, m.address): m for m in ready}
            for key in [key for key in opened if key not in wanted]:
                leave(opened[key][0])
                left.append(opened.pop(key))
            for key, member in wanted.items():
                if key not in opened and key not in refused:
                    stack = AsyncExitStack()
                    try:
                        opened[key] = (await stack.enter_async_context(open_one(member.address)), stack)
                    except ValueError as error:  # such as a token that would cross a network in plain text
                        refused.add(key)
                        logger.error("%s is not used: %s", member.instance, error)
            await found.become([opened[key][0] for key in wanted if key in opened])
            for one, stack in [each for each in left if idle(each[0])]:
                left.remove((one, stack))
                await stack.aclose()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS if left else None):
                    await where.watcher.changed(seen)
    finally:
        for _, stack in (*opened.values(), *left):
            await stack.aclose()
