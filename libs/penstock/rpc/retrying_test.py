"""Repeated calls over a clock that is turned by hand."""

import asyncio

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.rpc.errors import RpcError
from penstock.rpc.retrying import GROWTHS, LEAST_SECONDS, SHORTEST, Retry, Tries, retried
from penstock.telemetry.waits import snapshot

C = grpc.StatusCode
AWAY = Retry((C.UNAVAILABLE, C.RESOURCE_EXHAUSTED))


def away(retry_after: float | None = None, code: grpc.StatusCode = C.UNAVAILABLE) -> RpcError:
    return RpcError(code, "away", retry_after=retry_after)


class Script:
    """Fails with each error in turn, then answers; every attempt takes `takes` seconds of its clock."""

    def __init__(self, *errors: RpcError, takes: float = 0.0) -> None:
        self.now = 100.0
        self.asked: list[float] = []
        self.slept: list[float] = []
        self.listed: list[set[str]] = []
        self._errors, self._takes = list(errors), takes

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.listed.append({wait.what for wait in snapshot()})
        self.slept.append(seconds)
        self.now += seconds

    async def ask(self, left: float) -> str:
        self.asked.append(left)
        self.now += self._takes
        if self._errors:
            raise self._errors.pop(0)
        return "answer"

    async def run(self, retry: Retry, within: float = 10.0) -> str:
        return await retried(retry, within, self.ask, what="scores", on="reward", clock=self.clock, sleep=self.sleep)


async def test_it_asks_until_there_is_an_answer_with_the_time_that_is_left() -> None:
    script = Script(away(), away(code=C.RESOURCE_EXHAUSTED), takes=1.0)
    assert await script.run(AWAY) == "answer"
    assert script.asked == [10.0, 8.5, 7.0] and script.slept == [0.5, 0.5]


@pytest.mark.parametrize("code", [c for c in C if c not in AWAY.codes])
async def test_a_code_that_is_not_listed_propagates_at_once(code: grpc.StatusCode) -> None:
    script = Script(away(code=code))
    with pytest.raises(RpcError) as caught:
        await script.run(AWAY)
    assert caught.value.code is code and not script.slept


@given(st.floats(0.0, 20.0), st.floats(0.0, 5.0), st.one_of(st.none(), st.floats(0.01, 30.0)))
def test_nothing_is_asked_at_or_after_the_deadline_but_once(within: float, takes: float, hint: float | None) -> None:
    script = Script(*(away(hint) for _ in range(3000)), takes=takes)
    with pytest.raises(RpcError):
        asyncio.run(script.run(AWAY, within))
    first, *others = script.asked
    assert first == pytest.approx(max(LEAST_SECONDS, within))
    assert script.now <= 100.0 + within + takes + 1e-9 and all(left <= max(LEAST_SECONDS, within) for left in others)


async def test_a_cancellation_is_never_repeated() -> None:
    asked = 0
    entered = asyncio.Event()

    async def hang(left: float) -> None:
        nonlocal asked
        asked += 1
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(retried(AWAY, 10, hang, what="x", on="y"))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asked == 1


async def test_a_cancellation_ends_a_pause() -> None:
    pausing = asyncio.Event()

    async def refuse(left: float) -> None:
        raise away()

    async def sleep(seconds: float) -> None:
        pausing.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(retried(AWAY, 10, refuse, what="x", on="y", sleep=sleep))
    await pausing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "away" not in {wait.what for wait in snapshot()}


async def test_a_pause_is_what_the_server_asked_for_else_grows_with_the_failures_that_count() -> None:
    growing = Retry(AWAY.codes, pause=0.2, growth=2.0, absent=(C.RESOURCE_EXHAUSTED,))
    script = Script(*(away() for _ in range(6)))
    await script.run(growing, 100.0)
    assert script.slept == pytest.approx([0.4, 0.8, 1.6, 3.2, 3.2, 3.2]) and GROWTHS == 4
    script = Script(away(0.3), away(code=C.RESOURCE_EXHAUSTED), away(7.0))
    await script.run(growing, 100.0)
    assert script.slept == [0.3, 0.4, 7.0]
    bounded = Retry(AWAY.codes, longest=1.0)
    script = Script(away(60.0))
    await script.run(bounded)
    assert script.slept == [1.0]


async def test_no_pause_is_shorter_than_nothing_or_endless() -> None:
    for asked in (-1.0, float("-inf"), 0.0, float("nan")):
        script = Script(away(asked))
        await script.run(AWAY)
        assert script.slept == [AWAY.pause]
    script = Script(away(1e-9))
    await script.run(AWAY)
    assert script.slept == [SHORTEST]


async def test_a_bound_on_attempts_counts_those_that_reached_somebody() -> None:
    three = Retry((*AWAY.codes, C.INTERNAL), attempts=3, absent=AWAY.codes)
    script = Script(away(), away(), away(), away(), *(away(code=C.INTERNAL) for _ in range(9)))
    with pytest.raises(RpcError, match="INTERNAL"):
        await script.run(three, 100.0)
    assert len(script.asked) == 7


async def test_progress_moves_the_deadline_up_to_the_last() -> None:
    script = Script()
    tries = Tries(AWAY, 10.0, until=115.0, clock=script.clock, sleep=script.sleep)
    script.now += 9.0
    assert tries.left == 1.0
    tries.progressed()
    assert tries.left == 6.0
    script.now += 7.0
    assert tries.left == -1.0
    with pytest.raises(RpcError):
        await tries.again(away(), on="x")


async def test_the_call_and_the_reason_of_a_pause_are_listed() -> None:
    script = Script(RpcError(C.RESOURCE_EXHAUSTED, "disk full"))
    await script.run(AWAY)
    assert script.listed == [{"scores", "disk full"}]
    assert not [wait for wait in snapshot() if wait.what in ("scores", "disk full")]
