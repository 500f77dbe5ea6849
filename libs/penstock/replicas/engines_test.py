"""Replicas that die, refuse or misbehave: a turn goes on elsewhere from the tokens drawn, or fails with a reason."""

import asyncio
import time

import pytest

from penstock import rpc
from penstock.common.v1.common_pb2 import SamplingParams
from penstock.replicas import engines as module
from penstock.replicas.engines import Engines, GenerationFailed, Replica, engines
from penstock.replicas.pool import Pool
from penstock.testing.fake_engine import FakeEngine, Step, Tokens, serving
from penstock.trajectories import TrajectoryBuilder
from penstock.trajectory.v1 import trajectory_pb2 as pb

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
SAMPLING = SamplingParams(temperature=1, top_p=1, max_tokens=8, stop_token_ids=[2])
PROMPT = [3, 10, 11]


async def complete(
    *scripts: list[list[Step]], attempts: int = 3, timeout: float = 10.0, seconds: float = 10.0, group: str = "g1"
) -> tuple[TrajectoryBuilder, pb.FinishReason, list[FakeEngine]]:
    """One turn over replicas with these scripts."""
    fakes = [FakeEngine(script) for script in scripts]
    builder = TrajectoryBuilder()
    builder.context("user", PROMPT)
    async with serving(*fakes) as addresses, engines(addresses, rpc.Security(), attempts, timeout) as pool:
        until = time.monotonic() + seconds
        finish, _ = await pool.complete(builder, group, pb.RolloutWork(min_step=4), SAMPLING, until)
    return builder, finish, fakes


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AVOID_SECONDS", 0.05)


async def test_a_turn_is_the_engines_tokens_with_their_versions() -> None:
    builder, finish, (fake,) = await complete([[Tokens([5, 6], step=3), Tokens([7, 2], step=4, finish=STOP)]])
    assert (builder.completion, finish) == ([5, 6, 7, 2], STOP)
    t = builder.fill(pb.Trajectory())
    assert [(s.first, s.version.step) for s in t.version_segments] == [(3, 3), (5, 4)]
    assert (fake.requests[0].min_step, fake.requests[0].sampling.max_tokens) == (4, 8)


@pytest.mark.parametrize(
    "death", [rpc.unavailable("died", retry_after=0.01), rpc.resource_exhausted("full", retry_after=60)]
)
async def test_another_replica_goes_on_from_the_tokens_drawn(death: rpc.Abort) -> None:
    """Which replica is asked first depends on its port: both have the same script, and one of them begins."""
    fakes = [FakeEngine(), FakeEngine()]
    shared: list[list[Step]] = [[Tokens([5, 6], step=3), death], [Tokens([7, 2], step=5, finish=STOP)]]
    fakes[0].script = fakes[1].script = shared
    builder = TrajectoryBuilder()
    builder.context("user", PROMPT)
    async with serving(*fakes) as addresses, engines(addresses, rpc.Security(), 3, 10) as pool:
        finish, address = await pool.complete(builder, "g", pb.RolloutWork(), SAMPLING, time.monotonic() + 10)
    first, second = sorted(fakes, key=lambda f: len(f.prompts[0]))
    assert first.prompts == [PROMPT] and second.prompts == [[*PROMPT, 5, 6]]
    assert second.requests[0].sampling.max_tokens == 6 and address == second.address
    assert (builder.completion, finish) == ([5, 6, 7, 2], STOP)
    t = builder.fill(pb.Trajectory())
    assert [(s.first, s.version.step) for s in t.version_segments] == [(3, 3), (5, 5)]
    assert [(turn.role, turn.start, turn.end) for turn in t.turns] == [("user", 0, 3), ("assistant", 3, 7)]


async def test_a_stop_text_ends_the_turn_and_the_engines_work() -> None:
    """What was drawn behind it is left out with its versions, and a stream that never ends is not waited for."""
    sampling = SamplingParams(temperature=1, top_p=1, max_tokens=8, stop_token_ids=[2], stop_texts=["fg"])
    fake = FakeEngine([[Tokens([5], step=3), Tokens([6, 7, 8], step=4), asyncio.Event()]])
    builder = TrajectoryBuilder()
    builder.context("user", PROMPT)
    async with serving(fake) as addresses, engines(addresses, rpc.Security(), 3, 10) as pool:
        finish, _ = await pool.complete(
            builder,
            "g",
            pb.RolloutWork(),
            sampling,
            time.monotonic() + 10,
            lambda ts: "".join("...abcdefgh"[t + 2] for t in ts),
        )
    assert (builder.completion, finish) == ([5, 6, 7], STOP)
    assert not fake.requests[0].sampling.stop_texts
    t = builder.fill(pb.Trajectory())
    assert [(s.first, s.version.step) for s in t.version_segments] == [(3, 3), (4, 4)]


async def test_an_absent_replica_is_waited_for_beyond_the_bound_on_failures() -> None:
    away: list[list[Step]] = [[rpc.unavailable("starting", retry_after=0.01)] for _ in range(6)]
    builder, finish, (fake,) = await complete([*away, [Tokens([2], finish=STOP)]], attempts=2)
    assert (builder.completion, finish, len(fake.requests)) == ([2], STOP, 7)


async def test_an_absent_replica_is_waited_for_no_longer_than_the_deadline() -> None:
    away: list[list[Step]] = [[rpc.unavailable("starting", retry_after=0.05)] for _ in range(1000)]
    with pytest.raises(
        GenerationFailed, match=r"no replica generated within 10 s \(0 failed attempts\)|DEADLINE_EXCEEDED"
    ):
        await complete(away, seconds=0.4)


async def test_a_replica_that_hangs_fails_at_the_deadline() -> None:
    with pytest.raises(GenerationFailed, match="DEADLINE_EXCEEDED"):
        await complete([[Tokens([5]), asyncio.Event()]], timeout=0.3)


@pytest.mark.parametrize(
    "refusal",
    [
        rpc.out_of_range("exceeds the context of 8"),
        rpc.failed_precondition("past the pinned version"),
        rpc.invalid_argument("top_p"),
    ],
)
async def test_what_would_fail_again_fails_at_once(refusal: rpc.Abort) -> None:
    fake = FakeEngine([[refusal], [Tokens([2], finish=STOP)]])
    builder = TrajectoryBuilder()
    builder.context("user", PROMPT)
    async with serving(fake) as addresses, engines(addresses, rpc.Security(), 3, 10) as pool:
        with pytest.raises(GenerationFailed, match=refusal.message):
            await pool.complete(builder, "g", pb.RolloutWork(), SAMPLING, time.monotonic() + 10)
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "malformed",
    [
        Tokens([5, 6], logprobs=[-0.5]),
        Tokens([5, 6], segments=False),
        Tokens([5]),  # and then the stream ends without a finish reason
    ],
)
async def test_malformed_streams_are_failed_attempts_and_bounded(malformed: Tokens) -> None:
    with pytest.raises(GenerationFailed, match="INTERNAL"):
        await complete([[malformed] for _ in range(9)], attempts=3)
    builder, finish, _ = await complete([[malformed], [Tokens([7, 2], finish=STOP)]])
    assert builder.completion[-2:] == [7, 2] and finish == STOP


async def test_a_replica_that_dies_after_the_last_token_costs_nothing() -> None:
    death = rpc.unavailable("died", retry_after=0.01)
    builder, finish, (fake,) = await complete([[Tokens([5, 2]), death]])
    assert (builder.completion, finish, len(fake.requests)) == ([5, 2], STOP, 1)
    builder, finish, (fake,) = await complete([[Tokens([5] * 8), death]])
    assert (len(builder.completion), finish, len(fake.requests)) == (8, LENGTH, 1)


def replicas(n: int) -> list[Replica]:
    return [Replica(f"host-{i}:7100", stub=None) for i in range(n)]  # type: ignore[arg-type]


def test_a_group_keeps_its_replica_and_groups_spread() -> None:
    pool = Engines(Pool(replicas(4)), 3, 10)
    chosen = {f"g{i}": pool.choose(f"g{i}").address for i in range(400)}
    assert chosen == {group: pool.choose(group).address for group in chosen}
    counts = [list(chosen.values()).count(r.address) for r in replicas(4)]
    assert min(counts) > 60
    fewer = Engines(Pool(replicas(3)), 3, 10)
    moved = sum(chosen[g] != fewer.choose(g).address for g in chosen)
    assert moved == counts[3]  # only the groups of the replica that is gone


def test_a_group_leaves_a_replica_that_is_much_busier() -> None:
    members = replicas(3)
    pool = Engines(Pool(members), 3, 10)
    preferred = pool.choose("g")
    preferred.in_flight = module.IMBALANCE
    assert pool.choose("g") is preferred
    preferred.in_flight = module.IMBALANCE + 1
    assert pool.choose("g") is not preferred


def test_a_replica_that_failed_is_avoided_unless_all_did() -> None:
    members = replicas(2)
    pool = Engines(Pool(members), 3, 10)
    preferred = pool.choose("g")
    preferred.avoid_until = time.monotonic() + 60
    other = pool.choose("g")
    assert other is not preferred
    other.avoid_until = time.monotonic() + 60
    assert pool.choose("g") is preferred


async def test_a_pool_without_replicas_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one generation address"):
        async with engines([], rpc.Security(), 3, 10):
            pass
