import asyncio

import pytest
from nats.js.errors import NotFoundError, ServerError

from penstock.bus import Bus


@pytest.mark.parametrize("answer", ["yes", "no", "later"])
async def test_a_cancellation_that_comes_with_the_answer_is_not_lost(bus: Bus, answer: str) -> None:
    """Else a service that is told to stop in that moment works on for ever."""
    asked = asyncio.Event()

    async def answer_when_cancelled() -> str:
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if answer == "yes":
                return answer
            raise NotFoundError(err_code=10014) if answer == "no" else ServerError(err_code=10008) from None
        raise AssertionError

    asking = asyncio.create_task(bus.ask("a call", answer_when_cancelled))
    await asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
