"""Streams told as one: everything of each, in its order, and none left running."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from services.generation.together import LARGEST, sizes, together


class Streams:
    """Three streams of three numbers; `failing` fails before its second."""

    def __init__(self, failing: int | None = None) -> None:
        self.failing, self.open = failing, 0

    async def one(self, index: int) -> AsyncGenerator[int, None]:
        self.open += 1
        try:
            for i in range(3):
                await asyncio.sleep(0)
                if index == self.failing and i == 1:
                    raise LookupError("gone")
                yield i
        finally:
            self.open -= 1

    def all(self) -> list[AsyncGenerator[int, None]]:
        return [self.one(index) for index in range(3)]


async def test_everything_of_each_stream_is_told_in_its_order() -> None:
    streams = Streams()
    told = [each async for each in together(streams.all())]
    assert sorted(told) == [(index, i) for index in range(3) for i in range(3)]
    for index in range(3):
        assert [i for at, i in told if at == index] == [0, 1, 2]
    assert [each async for each in together([streams.one(0)])] == [(0, 0), (0, 1), (0, 2)]


async def test_an_error_of_one_ends_all() -> None:
    streams = Streams(failing=1)
    with pytest.raises(LookupError, match="gone"):
        [each async for each in together(streams.all())]
    assert streams.open == 0


async def test_none_is_left_running_when_the_caller_leaves() -> None:
    streams = Streams()
    async with aclosing(together(streams.all())) as told:  # type: ignore[type-var]
        await anext(told)
        assert streams.open == 3
    assert streams.open == 0


def test_chunks_double_up_to_the_largest_unless_they_are_steady() -> None:
    assert list(itertools.islice(sizes(16, steady=False), 6)) == [16, 32, 64, 128, LARGEST, LARGEST]
    assert list(itertools.islice(sizes(16, steady=True), 3)) == [16, 16, 16]
    assert list(itertools.islice(sizes(1000, steady=False), 2)) == [1000, 1000]
