"""Work beside a block ends with it, and neither's failure is lost or wrapped."""

import asyncio

import pytest

from penstock.membership import beside


async def test_work_ends_with_its_block() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with beside(work()):
        await asyncio.sleep(0)
    assert ended.is_set()


async def test_what_the_block_raises_is_raised_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with beside(asyncio.sleep(60)):
            raise KeyError


async def test_work_that_fails_ends_the_block() -> None:
    async def work() -> None:
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        async with beside(work()), asyncio.timeout(10):
            await asyncio.Event().wait()
