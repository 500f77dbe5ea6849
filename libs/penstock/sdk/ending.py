"""Somebody's function in this process, whose end is not this process's end.

`in_thread` runs a function that may block in a thread of its own: one that hangs for ever keeps that thread, and no
other call waits for it, nor does the end of the program. `not_ending` guards what runs on the event loop. Within both,
`os._exit` raises SystemExit instead. What ends a process from outside of Python (a crash in C, a signal) still does;
worker processes are for that.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_guarded: contextvars.ContextVar[int] = contextvars.ContextVar("guarded", default=0)
_exit = os._exit


class Ended(Exception):
    """The function raised what no future can carry (StopIteration), or what would end more than itself."""


@contextmanager
def not_ending() -> Iterator[None]:
    """Within the block `os._exit` raises SystemExit. A process that was forked there ends as it wants."""
    if os._exit is _exit:
        os._exit = _raise
    token = _guarded.set(os.getpid())
    try:
        yield
    finally:
        _guarded.reset(token)


def _raise(status: int) -> NoReturn:
    if _guarded.get() == os.getpid():
        raise SystemExit(status)
    _exit(status)


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns. Raises what it raises; `Ended` for what is no `Exception` or StopIteration."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def tell(returned: Any, error: Exception | None) -> None:
        if answer.done():  # nobody waits any more
            return
        if error is None:
            answer.set_result(returned)
        else:
            answer.set_exception(error)

    def run() -> None:
        returned: Any = None
        error: Exception | None = None
        try:
            with not_ending():
                returned = function(*arguments)
        except BaseException as raised:  # the boundary of a thread
            plain = isinstance(raised, Exception) and not isinstance(raised, StopIteration | StopAsyncIteration)
            error = raised if plain and isinstance(raised, Exception) else _ended(raised)
        try:
            loop.call_soon_threadsafe(tell, returned, error)
        except RuntimeError:  # the loop was closed meanwhile
            return

    threading.Thread(target=context.run, args=(run,), name="reward", daemon=True).start()
    return await answer


def _ended(raised: BaseException) -> Ended:
    ended = Ended(f"{type(raised).__name__}({raised})")
    ended.__cause__ = raised
    return ended
