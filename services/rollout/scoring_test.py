"""Reward services that misbehave, over real gRPC: an item ends as its own score or as a typed failure, never as 0."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from penstock import rpc
from penstock.recipes.sections import Reward, ServedModel
from penstock.reward.v1 import reward_pb2 as pb
from penstock.reward.v1 import reward_pb2_grpc
from penstock.sdk import Sample, Scored, reward
from penstock.sdk.hosting.reward_service import RewardService
from services.rollout.failures import RewardFailed
from services.rollout.fake_reward_testing import Answer, FakeReward, item, scored
from services.rollout.reward_client import MAX_ITEMS, Pace, beyond
from services.rollout.scoring import Scoring, scoring, total


@contextlib.asynccontextmanager
async def scoring_with(
    *fakes: reward_pb2_grpc.RewardServiceServicer,
    weights: Sequence[float] = (1.0,),
    seconds: float = 5.0,
    names: Sequence[str] = (),
) -> AsyncIterator[Scoring]:
    """Scoring with one reward per fake."""
    async with contextlib.AsyncExitStack() as stack:
        rewards = []
        for i, fake in enumerate(fakes):
            server = await stack.enter_async_context(rpc.Server("reward"))
            server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, fake)
            await server.start()
            weight = weights[i]
            name = names[i] if names else f"r{i}"
            rewards.append(Reward(name=name, weight=weight, address=server.address, timeout_seconds=seconds))
        yield await stack.enter_async_context(scoring(rewards, [], rpc.Security()))


async def test_a_reward_models_process_is_found_by_its_rewards_name() -> None:
    async with contextlib.AsyncExitStack() as stack:
        addresses = []
        for value in (1.0, 2.0):
            server = await stack.enter_async_context(rpc.Server("reward"))
            server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, FakeReward(scored(value)))
            await server.start()
            addresses.append(server.address)
        rewards = [Reward(name="checker"), Reward(name="helpful", model=ServedModel(path="m"))]
        models = {"helpful": [addresses[1]]}
        both = await stack.enter_async_context(scoring(rewards, addresses[:1], rpc.Security(), models))
        verdict = await both.score(item())
    assert [(c.name, c.value) for c in verdict.components] == [("checker", 1.0), ("helpful", 2.0)]


async def test_the_reward_is_the_weighted_sum_of_its_parts() -> None:
    async with scoring_with(FakeReward(scored(1.0)), FakeReward(scored(-2.0)), weights=(1.0, 0.25)) as s:
        components = (await s.score(item())).components
    assert [(c.name, c.value, c.weight) for c in components] == [("r0", 1.0, 1.0), ("r1", -2.0, 0.25)]
    assert total(components) == 0.5


async def test_a_rewards_own_parts_and_its_answer_are_kept_but_not_trained_on() -> None:
    def answer(i: pb.ScoreItem) -> Sequence[pb.ScoreResult]:
        return [pb.ScoreResult(id=i.id, score=pb.Score(value=1.0, components={"parsed": 1.0}, answer="42"))]

    async with scoring_with(FakeReward(scored(0.5)), FakeReward(answer), weights=(1.0, 2.0)) as s:
        verdict = await s.score(item())
    shown = [(c.name, c.value, c.weight) for c in verdict.components]
    assert shown == [("r0", 0.5, 1.0), ("r1", 1.0, 2.0), ("r1.parsed", 1.0, 0.0)]
    assert verdict.answer == "42" and total(verdict.components) == 2.5


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (scored(float("nan")), "not a finite number"),
        (scored(float("inf")), "not a finite number"),
        (lambda i: [], "did not answer this item"),
        (lambda i: [pb.ScoreResult(id="another", score=pb.Score(value=1))], "'another', which was not asked"),
        (lambda i: [pb.ScoreResult(id=i.id)], "neither score nor invalid"),
        (lambda i: [pb.ScoreResult(id=i.id, invalid=pb.Invalid(reason="no parse"))], "no parse"),
        (lambda i: [pb.ScoreResult(id=i.id, invalid=pb.Invalid())], "no reason"),
        (lambda i: [*scored(1.0)(i), *scored(0.0)(i)], "more than once"),
    ],
)
async def test_no_answer_but_a_finite_score_becomes_a_number(answer: Answer, reason: str) -> None:
    async with scoring_with(FakeReward(answer)) as s:
        with pytest.raises(RewardFailed, match=f"r0: .*{reason}"):
            await s.score(item())


async def test_a_bad_item_does_not_harm_its_neighbours_and_answers_find_their_items() -> None:
    """The service answers in reverse order and leaves out every third item."""

    def answer(i: pb.ScoreItem) -> Sequence[pb.ScoreResult]:
        return [] if int(i.completion) % 3 == 0 else scored(float(i.completion))(i)

    fake = FakeReward(answer)
    fake.gate.clear()
    async with scoring_with(fake) as s:
        calls = [asyncio.create_task(s.score(item(str(i)))) for i in range(40)]
        await asyncio.sleep(0)
        fake.gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
    for i, result in enumerate(results):
        if i % 3 == 0:
            assert isinstance(result, RewardFailed)
        else:
            assert not isinstance(result, BaseException) and result.components[0].value == float(i)
    assert len(fake.batches) <= 3  # what gathers while a call is under way goes with the next


async def test_a_service_that_is_away_is_asked_again() -> None:
    away = [rpc.unavailable("starting", retry_after=0.01)] * 3
    fake = FakeReward(scored(0.75), away)
    async with scoring_with(fake) as s:
        assert total((await s.score(item())).components) == 0.75
    assert len(fake.batches) == 4


@pytest.mark.parametrize(
    "error",
    [
        rpc.unavailable("starting", retry_after=3600),  # longer than anybody waits: the reward's time is the bound
        rpc.invalid_argument("row_json"),
        rpc.not_found("no reward of that name"),
    ],
)
async def test_a_service_that_refuses_fails_the_item_in_its_time(error: rpc.Abort) -> None:
    async with scoring_with(FakeReward(scored(1.0), [error] * 100)) as s, asyncio.timeout(4):
        with pytest.raises(RewardFailed, match=error.message):
            await s.score(item())


async def test_a_service_that_hangs_fails_the_item_and_not_the_next() -> None:
    fake = FakeReward(scored(1.0))
    fake.gate.clear()
    async with scoring_with(fake, seconds=0.3) as s:
        with pytest.raises(RewardFailed, match="DEADLINE_EXCEEDED"):
            await s.score(item())
        fake.gate.set()
        assert total((await s.score(item())).components) == 1.0


async def test_a_failed_part_fails_the_whole_reward() -> None:
    parts = (FakeReward(scored(1.0)), FakeReward(scored(1.0), [rpc.not_found("gone")]))
    async with scoring_with(*parts, weights=(1.0, 1.0)) as s:
        with pytest.raises(RewardFailed, match="r1: NOT_FOUND"):
            await s.score(item())


async def test_an_abandoned_item_does_not_stop_the_others() -> None:
    fake = FakeReward(scored(1.0))
    fake.gate.clear()
    async with scoring_with(fake) as s:
        abandoned, kept = asyncio.create_task(s.score(item("a"))), asyncio.create_task(s.score(item("b")))
        async with asyncio.timeout(5):
            while not fake.batches:
                await asyncio.sleep(0.005)
        abandoned.cancel()
        await asyncio.gather(abandoned, return_exceptions=True)
        fake.gate.set()
        assert total((await kept).components) == 1.0


async def outcomes(s: Scoring, texts: Sequence[str]) -> list[float | str]:
    found = await asyncio.gather(*(s.score(item(text)) for text in texts), return_exceptions=True)
    return [str(each) if isinstance(each, BaseException) else each.components[0].value for each in found]


@pytest.mark.parametrize("hangs_for", [0.25, 60.0])
async def test_items_that_hang_do_not_fail_their_siblings(hangs_for: float) -> None:
    """One worker; what hangs is given up by the service after a while, or by nobody."""

    @reward(timeout=hangs_for)
    async def judge(sample: Sample) -> float:
        if sample.completion == "hang":
            await asyncio.Event().wait()
        return float(sample.completion)

    texts = ["hang", "1", "2", "hang", "3", "4", "5", "6"]
    async with scoring_with(RewardService([judge], at_once=1), seconds=0.4, names=["judge"]) as s:
        found = await outcomes(s, texts)
    for text, value in zip(texts, found, strict=True):
        assert value == float(text) if text != "hang" else isinstance(value, str), (text, value)


@pytest.mark.parametrize("streams", [True, False])
async def test_a_slow_service_makes_it_slower_and_not_wrong(streams: bool) -> None:
    """128 items that take five times the time of a call, one after the other."""
    sizes = list[int]()

    @reward
    async def slow(sample: Sample) -> float:
        await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.01)
        return float(sample.completion)

    class Counting(RewardService):
        async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:
            sizes.append(len(request.items))
            return await super().Score(request, context)

        async def ScoreStream(
            self, request: pb.ScoreStreamRequest, context: Any
        ) -> AsyncIterator[pb.ScoreStreamResponse]:
            if not streams:
                raise rpc.Abort(grpc.StatusCode.UNIMPLEMENTED, "no streams")
            sizes.append(len(request.items))
            async for each in super().ScoreStream(request, context):
                yield each

    async with scoring_with(Counting([slow], at_once=1), seconds=0.3, names=["slow"]) as s:
        assert await outcomes(s, [str(i) for i in range(128)]) == [float(i) for i in range(128)]
    assert sizes[-1] < sizes[0]


def test_a_batch_is_no_larger_than_what_was_answered_in_time() -> None:
    pace = Pace(10.0)
    pace.after(128, 40, 10.0)
    assert pace.most == 40
    pace.after(40, 40, 8.0)
    assert pace.most == 40
    pace.after(40, 40, 4.0)
    assert pace.most == 80
    pace.after(80, 0, 10.0)
    assert pace.most == 1
    for _ in range(20):
        pace.after(1, 1, 0.1)
    assert pace.most == MAX_ITEMS


@pytest.mark.parametrize(
    ("score", "allowed", "says"),
    [
        (Scored(0.5), {"least": 0.0, "greatest": 1.0}, ""),
        (Scored(1.0, {"length": 3.0}), {"greatest": 1.0, "components": ("length",)}, ""),
        (Scored(-0.1), {"least": 0.0}, "value -0.1 is below least 0"),
        (Scored(1.5), {"greatest": 1.0}, "value 1.5 is above greatest 1"),
        (Scored(1.0, {"lenght": 3.0}), {"components": ("length",)}, "component 'lenght' is none of length"),
        (Scored(1.0, {"x": 3.0}), {"components": ()}, "component 'x' is none of none"),
    ],
)
def test_a_score_beyond_what_the_recipe_allows_is_told(score: Scored, allowed: dict[str, Any], says: str) -> None:
    assert beyond(Reward(name="r", **allowed), score) == says


@pytest.mark.parametrize("replicas", [1, 2, 3])
async def test_all_replicas_of_our_environment_score(replicas: int) -> None:
    fakes = [FakeReward(scored(1.0)) for _ in range(replicas)]
    async with contextlib.AsyncExitStack() as stack:
        addresses = []
        for fake in fakes:
            fake.gate.clear()
            server = await stack.enter_async_context(rpc.Server("environment"))
            server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, fake)
            await server.start()
            addresses.append(server.address)
        scorer = await stack.enter_async_context(scoring([Reward(name="r")], addresses, rpc.Security()))
        asked = [asyncio.create_task(scorer.score(item(str(i)))) for i in range(6 * replicas)]
        async with asyncio.timeout(20):
            while not all(fake.batches for fake in fakes):
                await asyncio.sleep(0.01)
        for fake in fakes:
            fake.gate.set()
        await asyncio.gather(*asked)
    assert [sum(map(len, fake.batches)) for fake in fakes] == [6] * replicas


async def test_a_replica_that_is_slow_gets_less() -> None:
    slow, quick = FakeReward(scored(1.0)), FakeReward(scored(1.0))
    slow.gate.clear()
    async with contextlib.AsyncExitStack() as stack:
        addresses = []
        for fake in (slow, quick):
            server = await stack.enter_async_context(rpc.Server("environment"))
            server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, fake)
            await server.start()
            addresses.append(server.address)
        scorer = await stack.enter_async_context(scoring([Reward(name="r")], addresses, rpc.Security()))
        held = asyncio.create_task(scorer.score(item("held")))
        await asyncio.sleep(0)
        for i in range(8):
            await scorer.score(item(str(i)))
        slow.gate.set()
        await held
    assert sum(map(len, quick.batches)) == 8 and sum(map(len, slow.batches)) == 1
