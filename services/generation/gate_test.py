"""Who may pass, and when weights may be swapped. Pure asyncio."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from services.generation.gate import Gate, PinMissed


async def turns(n: int = 5) -> None:
    """Lets every task that can run do so."""
    for _ in range(n):
        await asyncio.sleep(0)


class Passer:
    """A request that stays in the engine until it is told to finish."""

    def __init__(self, gate: Gate, min_step: int = 0, pinned: int | None = None) -> None:
        self.inside, self._finish = False, asyncio.Event()
        self.task = asyncio.create_task(self._run(gate, min_step, pinned))

    async def _run(self, gate: Gate, min_step: int, pinned: int | None) -> None:
        async with gate.passing(min_step, pinned, within=10):
            self.inside = True
            await self._finish.wait()
        self.inside = False

    async def finish(self) -> None:
        self._finish.set()
        await self.task


def started(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    return asyncio.create_task(work)


async def test_a_request_never_starts_on_a_version_older_than_its_min_step() -> None:
    gate = Gate()
    free, bound = Passer(gate), Passer(gate, min_step=3)
    await turns()
    assert not free.inside and not bound.inside  # nothing is served before the engine holds a version
    await gate.open(2)
    await turns()
    assert free.inside and not bound.inside
    await gate.open(3)
    await turns()
    assert bound.inside
    await asyncio.gather(free.finish(), bound.finish())


async def test_a_pinned_request_starts_on_exactly_its_version() -> None:
    gate = Gate()
    pinned = Passer(gate, pinned=2)
    await gate.open(1)
    await turns()
    assert not pinned.inside
    await gate.open(2)
    await turns()
    assert pinned.inside
    await pinned.finish()


async def test_a_pin_that_was_passed_is_refused() -> None:
    gate = Gate()
    waiting = Passer(gate, pinned=2)
    await turns()
    await gate.open(3)
    with pytest.raises(PinMissed, match="holds version 3, past the pinned 2"):
        await waiting.task
    with pytest.raises(PinMissed):
        async with gate.passing(0, 0, within=1):
            raise AssertionError


async def test_weights_are_not_swapped_while_a_pinned_request_runs() -> None:
    gate = Gate()
    await gate.open(1)
    pinned, free = Passer(gate, pinned=1), Passer(gate)
    await turns()
    swap = started(gate.close_unpinned())
    await turns()
    assert not swap.done() and pinned.inside
    await pinned.finish()
    await swap
    assert free.inside  # those that are not pinned go on over a swap
    await free.finish()


async def test_no_pinned_request_begins_between_the_last_one_and_the_swap() -> None:
    gate = Gate()
    await gate.open(1)
    first = Passer(gate, pinned=1)
    await turns()
    swap = started(gate.close_unpinned())
    await turns()
    await asyncio.gather(first.finish(), swap)
    late, free = Passer(gate, pinned=1), Passer(gate)
    await turns()
    assert not late.inside and not free.inside
    await gate.open(2)
    await turns()
    assert free.inside
    with pytest.raises(PinMissed):
        await late.task
    await free.finish()


async def test_a_request_that_fails_or_is_cancelled_gives_its_pin_back() -> None:
    gate = Gate()
    await gate.open(1)
    with pytest.raises(RuntimeError):
        async with gate.passing(0, 1, within=1):
            raise RuntimeError
    pinned = Passer(gate, pinned=1)
    await turns()
    pinned.task.cancel()
    await asyncio.gather(pinned.task, return_exceptions=True)
    await asyncio.wait_for(gate.close_unpinned(), 5)


async def test_waiting_ends_at_the_requests_deadline() -> None:
    gate = Gate()
    await gate.open(1)
    with pytest.raises(TimeoutError):
        async with gate.passing(2, None, within=0.02):
            raise AssertionError


async def test_a_request_that_gave_up_waiting_holds_nothing() -> None:
    gate = Gate()
    with pytest.raises(TimeoutError):
        async with gate.passing(0, 5, within=0.02):
            raise AssertionError
    await asyncio.wait_for(gate.close_unpinned(), 5)


async def test_of_a_version_that_is_taken_back_no_pinned_request_runs_on() -> None:
    gate = Gate()
    await gate.open(3)
    first, second, free = Passer(gate, pinned=3), Passer(gate, pinned=3), Passer(gate)
    await turns()
    async with asyncio.timeout(5):
        await gate.close_unpinned(taken_back=True)
    for each in (first, second):
        with pytest.raises(PinMissed, match="version 3 was taken back"):
            await each.task
    await gate.open(2)
    assert free.inside
    await free.finish()
    late = Passer(gate, pinned=2)
    await turns()
    await late.finish()
