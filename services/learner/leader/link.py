"""A thread with an event loop of its own: training never waits for a socket by accident.

The training thread hands a coroutine over and waits for its end, with a bound.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Link:
    """Every method may be called from the training thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stack: AsyncExitStack) -> None:
        """stack: what is open on the loop; closed there at the end."""
        self._loop, self.stack = loop, stack
        self._beside: asyncio.Task[None] | None = None

    def do(self, coroutine: Coroutine[Any, Any, T], within: float) -> T:
        """The coroutine's result. Raises what it raised, what runs beside it raised, or TimeoutError."""
        if self._beside is not None and self._beside.done():
            coroutine.close()
            self._beside.result()
        return self.begin(coroutine).result(within)

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Starts the coroutine, and does not wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def beside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs the coroutine until the end, on the loop; the next `do` raises what it raised."""
        self._beside = asyncio.create_task(coroutine)
        self.stack.push_async_callback(_cancelled, self._beside)


@contextmanager
def linked() -> Iterator[Link]:
    """A Link whose thread, and what was opened on it, live as long as the block."""
    loop, stack = asyncio.new_event_loop(), AsyncExitStack()
    thread = threading.Thread(target=loop.run_forever, name="leader", daemon=True)
    thread.start()
    link = Link(loop, stack)
    try:
        yield link
    finally:
        link.begin(stack.aclose()).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
