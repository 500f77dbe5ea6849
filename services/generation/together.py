"""Several completions of one request as one stream, and chunks that grow.

A message costs more than the tokens in it. The first chunk is small, so that a caller soon has something to go on from;
later ones double, because what is lost with a replica is then a small part of what was drawn.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")
LARGEST = 256
"""Tokens of the largest chunk, unless the first is larger."""


def sizes(first: int, steady: bool) -> Iterator[int]:
    """Least tokens of each chunk but a completion's last: `first`, doubled up to LARGEST unless it is steady."""
    size = first
    while True:
        yield size
        if not steady:
            size = max(first, min(2 * size, LARGEST))


async def together(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncIterator[tuple[int, T]]:
    """What the streams give, as it comes, with each one's index. An error of one ends all, and is raised; so does
    closing this."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for each in only:
                yield 0, each
        return
    given: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue()

    async def pump(index: int) -> None:
        try:
            async with aclosing(streams[index]) as stream:
                async for each in stream:
                    given.put_nowait((index, each))
            given.put_nowait(None)
        except Exception as error:
            given.put_nowait(error)

    tasks = [asyncio.create_task(pump(index)) for index in range(len(streams))]
    try:
        running = len(tasks)
        while running:
            told = await given.get()
            if isinstance(told, BaseException):
                raise told
            if told is None:
                running -= 1
            else:
                yield told
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
