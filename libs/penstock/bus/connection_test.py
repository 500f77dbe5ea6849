import asyncio

import pytest

from penstock.bus import Bus


async def test_a_cancellation_that_comes_with_the_answer_is_not_lost(bus: Bus) -> None:
    """Else a service that is told to stop in that moment works on for ever."""
    asked = asyncio.Event()

    async def answer_when_cancelled() -> str:
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "answer"
        raise AssertionError

    asking = asyncio.create_task(bus.ask("a call", answer_when_cancelled))
    await asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
