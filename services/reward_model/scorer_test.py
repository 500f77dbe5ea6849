"""Every sample ends as a finite score or as Invalid with a reason; the event loop never waits for the model."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import torch

from penstock.sdk import Invalid, Sample, Scored
from services.reward_model.model import CannotScore
from services.reward_model.scorer import ModelScorer


class Scripted:
    """Says `score` of a text's length; a stand-in for the model's arithmetic, which model_test.py runs for real."""

    def __init__(self, score: Callable[[int], float] = float) -> None:
        self._score = score
        self.gate = threading.Event()
        self.gate.set()
        self.passes: list[int] = []

    def tokens(self, sample: Sample) -> tuple[int, ...]:
        if sample.completion == "unreadable":
            raise CannotScore("too long")
        if sample.completion == "odd":
            raise TypeError("can only concatenate str")
        return tuple(map(ord, sample.completion))

    def scores(self, sequences: list[tuple[int, ...]]) -> list[float]:
        assert self.gate.wait(30)
        self.passes.append(len(sequences))
        return [self._score(len(s)) for s in sequences]


@asynccontextmanager
async def scoring(model: Scripted) -> AsyncIterator[ModelScorer]:
    scorer = ModelScorer("rm", "a test's", model)
    running = asyncio.create_task(scorer.run())
    try:
        yield scorer
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def sample(text: str) -> Sample:
    return Sample("1", (), text)


async def test_what_has_gathered_is_scored_in_one_pass_and_each_gets_its_own() -> None:
    model = Scripted()
    async with scoring(model) as scorer:
        results = await asyncio.gather(*(scorer.score(sample("a" * n)) for n in range(1, 20)))
    assert results == [Scored(float(n)) for n in range(1, 20)] and model.passes == [19]


async def test_the_event_loop_never_waits_for_the_model() -> None:
    model = Scripted()
    model.gate.clear()
    async with scoring(model) as scorer:
        first = asyncio.create_task(scorer.score(sample("a")))
        turns = 0
        while turns < 1000:  # the loop turns although the pass cannot end
            await asyncio.sleep(0)
            turns += 1
        assert not first.done()
        model.gate.set()
        assert await first == Scored(1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
async def test_a_score_that_is_not_finite_is_invalid_and_never_zero(value: float) -> None:
    async with scoring(Scripted(lambda n: value if n == 2 else 0.0)) as scorer:
        bad, zero = await asyncio.gather(scorer.score(sample("ab")), scorer.score(sample("a")))
    assert isinstance(bad, Invalid) and "not a finite number" in bad.reason
    assert zero == Scored(0.0)


async def test_an_answer_that_cannot_be_read_spoils_no_other() -> None:
    async with scoring(Scripted()) as scorer:
        results = await asyncio.gather(*(scorer.score(sample(t)) for t in ("a", "unreadable", "odd", "bc")))
    assert results[0] == Scored(1.0) and results[3] == Scored(2.0)
    assert results[1] == Invalid("too long")
    assert isinstance(results[2], Invalid) and "TypeError: can only concatenate" in results[2].reason


async def test_the_same_answer_gets_the_same_score_and_is_scored_once() -> None:
    """The last bits depend on who shares the batch; here they change with every pass."""
    given = iter([1.0, 2.0, 3.0])
    model = Scripted(lambda n: next(given))
    async with scoring(model) as scorer:
        first = await asyncio.gather(scorer.score(sample("a")), scorer.score(sample("a")))
        again = await scorer.score(sample("a"))
        other = await scorer.score(sample("b"))
    assert [*first, again, other] == [Scored(1.0)] * 3 + [Scored(2.0)] and model.passes == [1, 1]


async def test_a_pass_that_does_not_fit_into_memory_says_so() -> None:
    failing = iter([True, False])

    def score(n: int) -> float:
        if next(failing):
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")
        return float(n)

    async with scoring(Scripted(score)) as scorer:
        first = await scorer.score(sample("ab"))
        assert isinstance(first, Invalid) and "--batch-tokens" in first.reason
        assert await scorer.score(sample("ab")) == Scored(2.0), "a failure is not kept"


async def test_a_model_that_fails_ends_the_service() -> None:
    def score(n: int) -> float:
        raise RuntimeError("CUDA error: an illegal memory access")

    scorer = ModelScorer("rm", "", Scripted(score))
    asked = asyncio.create_task(scorer.score(sample("a")))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        await asyncio.wait_for(scorer.run(), 30)
    asked.cancel()


async def test_a_caller_that_goes_away_costs_nothing() -> None:
    model = Scripted()
    model.gate.clear()
    async with scoring(model) as scorer:
        first = asyncio.create_task(scorer.score(sample("a")))
        gone = asyncio.create_task(scorer.score(sample("bb")))
        await asyncio.sleep(0)
        last = asyncio.create_task(scorer.score(sample("ccc")))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        model.gate.set()
        assert (await first, await last) == (Scored(1.0), Scored(3.0))
