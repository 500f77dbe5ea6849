"""Whole episodes over real gRPC: real environments, a fake engine. Tokens are the engine's; ends are typed."""

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Callable

import pytest

from penstock import rpc
from penstock.bus.embedded import free_ports
from penstock.chat import ChatTokenizer
from penstock.common.v1.common_pb2 import Message
from penstock.replicas.pool import Pool
from penstock.sdk.environments import InProcess
from penstock.sdk.serving import add_services
from penstock.telemetry.waits import snapshot
from penstock.testing.fake_engine import FakeEngine, Step, Tokens
from penstock.trajectories import check_trajectory, from_float32s, from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.environment.builtin.guess_number import GuessNumber
from services.rollout import episode as episode_module
from services.rollout.episode import play
from services.rollout.episode_testing import (
    COMPLETED,
    FAILED,
    LENGTH,
    STOP,
    TRUNCATED,
    encoded,
    soon,
    task,
    tools,
    trained,
)


async def test_a_single_turn_is_prompt_and_exactly_the_engines_tokens(
    chat: ChatTokenizer, environment_address: str
) -> None:
    odd = [63, 62, *encoded(chat, "abc")]  # a header, which no text encodes to
    fake = FakeEngine([[Tokens(odd[:3], step=3), Tokens(odd[3:], step=4, finish=STOP, logprobs=[-0.25] * 3)]])
    async with tools(chat, fake, environment_address) as with_tools:
        t = await play(with_tools, task(), 2, soon())
    check_trajectory(t)
    prompt = chat.render([Message(role="user", content="cab")])
    assert from_int32s(t.tokens).tolist() == prompt + odd and trained(t) == odd
    assert from_float32s(t.logprobs).tolist() == [0.0] * len(prompt) + [-0.5] * 3 + [-0.25] * 3
    assert [(s.first - len(prompt), s.version.step) for s in t.version_segments] == [(0, 3), (3, 4)]
    assert (t.outcome.status, t.reward, t.index, t.seed, t.min_step) == (COMPLETED, 1.0, 2, 42, 3)
    assert t.engine == fake.address and t.timings.HasField("generating") and t.HasField("ended_at")
    assert list(fake.requests[0].sampling.stop_token_ids) == [chat.stop_token]


async def test_many_turns_are_played_by_the_real_environment_and_only_our_tokens_are_trained(
    chat: ChatTokenizer, environment_address: str
) -> None:
    """The fake engine bisects by reading the prompt it is given, so the whole loop must be right for it to win."""
    drawn: list[list[int]] = []
    low, high = 1, 64

    def bisect(prompt: list[int]) -> list[int]:
        nonlocal low, high
        last = chat.text(prompt)
        if drawn:
            guess = int(chat.text(drawn[-1]))
            low, high = (guess + 1, high) if last.endswith("higher") else (low, guess - 1)
        drawn.append(encoded(chat, str((low + high) // 2)))
        return drawn[-1]

    fake = FakeEngine(answer=bisect)
    async with tools(chat, fake, environment_address, environment="guess_number") as with_tools:
        t = await play(with_tools, task("guess_number"), 0, soon())
    check_trajectory(t)
    assert (t.outcome.status, t.reward) == (COMPLETED, 1.0)
    assert trained(t) == list(itertools.chain(*drawn))
    parts = {c.name: (c.value, c.weight) for c in t.components}
    assert parts == {"guess_number": (1.0, 1.0), "guess_number.turns": (float(len(drawn)), 0.0)}
    roles = [turn.role for turn in t.turns]
    assert roles == ["user", "assistant"] * len(drawn) and t.turns[-1].finish_reason == STOP
    assert all(b[: len(a)] == a for a, b in itertools.pairwise(fake.prompts))  # nothing is tokenised again
    assert t.environment_instance == environment_address


async def test_a_turn_that_a_stop_text_ends_is_closed_by_the_observation(
    chat: ChatTokenizer, environment_address: str
) -> None:
    """The model draws `1 1`: the space ends its turn, and what follows reads as the template would have it."""
    fake = FakeEngine(answer=lambda prompt: encoded(chat, "1 1"))
    made = task("guess_number", row='{"low": 60}', max_tokens=4)
    made.rollout.sampling.stop_texts.append(" ")
    async with tools(chat, fake, environment_address, environment="guess_number") as with_tools:
        t = await play(with_tools, made, 0, soon())
    assert chat.text(trained(t)) == "1 1 " and t.turns[1].finish_reason == STOP
    first, second = fake.prompts[:2]
    drawn = encoded(chat, "1 ")
    assert second[: len(first) + len(drawn)] == first + drawn, "the stop token is the observation's"
    assert drawn[-1] == chat.stop_token not in trained(t)


async def test_a_turn_without_room_left_is_truncated_and_scored_as_it_stands(
    chat: ChatTokenizer, environment_address: str
) -> None:
    fake = FakeEngine([[Tokens(encoded(chat, "abcd")[:4], finish=LENGTH)]])
    async with tools(chat, fake, environment_address) as with_tools:
        t = await play(with_tools, task(max_tokens=4), 0, soon())
    assert (t.outcome.status, t.reward) == (TRUNCATED, 0.0)


async def test_an_episode_that_runs_out_of_tokens_has_the_reward_so_far(
    chat: ChatTokenizer, environment_address: str
) -> None:
    fake = FakeEngine(answer=lambda prompt: encoded(chat, "1"))
    async with tools(chat, fake, environment_address, environment="guess_number") as with_tools:
        t = await play(with_tools, task("guess_number", row='{"low": 60}', max_tokens=4), 0, soon())
    assert (t.outcome.status, t.reward) == (TRUNCATED, 0.0) and len(fake.requests) == 2


async def test_an_episode_that_runs_out_of_tokens_without_a_reward_is_a_typed_failure(
    chat: ChatTokenizer, environment_address: str
) -> None:
    """An environment that gives no reward before its end: the sample has none either, certainly not 0."""
    fake = FakeEngine(answer=lambda prompt: encoded(chat, "1"))
    async with tools(chat, fake, environment_address, environment="silent") as with_tools:
        t = await play(with_tools, task("silent", max_tokens=4), 0, soon())
    assert (t.outcome.status, t.outcome.failure) == (FAILED, pb.Outcome.FAILURE_ENVIRONMENT)
    assert "no reward at the end" in t.outcome.detail
    assert len(fake.requests) == 2 and fake.requests[1].sampling.max_tokens == 2


Script = Callable[[ChatTokenizer], FakeEngine]
BAD_ENDS: list[tuple[str, Script, str, pb.Outcome.Failure, str]] = [
    (
        "brevity",
        lambda chat: FakeEngine([[rpc.out_of_range("exceed the context")]]),
        "{}",
        pb.Outcome.FAILURE_GENERATION,
        "exceed the context",
    ),
    ("brevity", lambda chat: FakeEngine([[], []]), "{}", pb.Outcome.FAILURE_GENERATION, "without a finish reason"),
    (
        "brevity",
        lambda chat: FakeEngine(answer=lambda p: encoded(chat, "x")),
        "{}",
        pb.Outcome.FAILURE_REWARD,
        "an x cannot be judged",
    ),
    (
        "brevity",
        lambda chat: FakeEngine([[Tokens([7, 2], finish=STOP, logprobs=[float("nan"), -1])]]),
        "{}",
        pb.Outcome.FAILURE_INVALID,
        "must be finite",
    ),
    (
        "brevity",
        lambda chat: FakeEngine([[Tokens([], finish=STOP)]]),
        "{}",
        pb.Outcome.FAILURE_INVALID,
        "no trained token",
    ),
    ("broken", lambda chat: FakeEngine(), "{}", pb.Outcome.FAILURE_REWARD, "the simulator fell over"),
    ("nowhere", lambda chat: FakeEngine(), "{}", pb.Outcome.FAILURE_ENVIRONMENT, "NOT_FOUND"),
    (
        "guess_number",
        lambda chat: FakeEngine(),
        '{"low": 9, "high": 2}',
        pb.Outcome.FAILURE_ENVIRONMENT,
        "low and high",
    ),
]


@pytest.mark.parametrize(("environment", "engine", "row", "failure", "detail"), BAD_ENDS)
async def test_every_failure_has_its_type_and_no_reward(
    chat: ChatTokenizer,
    environment_address: str,
    environment: str,
    engine: Script,
    row: str,
    failure: pb.Outcome.Failure,
    detail: str,
) -> None:
    several_turns = "" if environment == "brevity" else environment
    async with tools(chat, engine(chat), environment_address, environment=several_turns) as with_tools:
        t = await play(with_tools, task(environment, row=row), 1, soon())
    check_trajectory(t)
    assert (t.outcome.status, t.outcome.failure) == (FAILED, failure), t.outcome.detail
    assert detail in t.outcome.detail
    assert not t.HasField("reward") and t.token_count == 0


async def test_the_groups_deadline_ends_a_sample_as_timed_out(chat: ChatTokenizer, environment_address: str) -> None:
    away: list[list[Step]] = [[rpc.unavailable("starting", retry_after=0.05)] for _ in range(1000)]
    async with tools(chat, FakeEngine(away), environment_address) as with_tools:
        t = await play(with_tools, task(), 0, time.monotonic() + 0.3)
    assert (t.outcome.status, t.outcome.failure) == (FAILED, pb.Outcome.FAILURE_TIMEOUT)


@pytest.mark.parametrize("outage", [3600.0, 0.0])  # another team's, one of the run's
async def test_an_episode_waits_for_an_environment_that_is_away(
    chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, outage: float
) -> None:
    monkeypatch.setattr(episode_module, "ENVIRONMENT_SECONDS", 2.0)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    fake = FakeEngine(answer=lambda prompt: encoded(chat, "1"))
    made = task("guess_number", row='{"low": 0, "high": 1}')
    async with tools(chat, fake, address, environment="guess_number", outage=outage) as driven:
        playing = asyncio.create_task(play(driven, made, 0, time.monotonic() + 120))
        while not any(w.on == f"environment {address}" and time.time() - w.since > 2.0 for w in snapshot()):
            await asyncio.sleep(0.02)
        assert not playing.done(), "longer than the environment's own time"
        async with rpc.Server("environment", address) as server:
            episodes = add_services(server, [], [InProcess(GuessNumber, "guess_number")])
            await server.start()
            t = await playing
            await episodes.close_all()
    assert t.outcome.status in (COMPLETED, TRUNCATED), t.outcome.detail


async def test_replicas_share_episodes_and_a_sample_that_comes_again_goes_there_again(
    chat: ChatTokenizer, environment_address: str
) -> None:
    async with tools(chat, FakeEngine(), environment_address, environment="guess_number") as driven:
        (one,) = driven.places
        three = dataclasses.replace(driven, places=Pool([dataclasses.replace(one, address=str(i)) for i in range(3)]))
    made = [task("guess_number") for _ in range(100)]
    for number, each in enumerate(made):
        each.group = f"g{number:08d}"
    where = [three.place(each, index).address for each in made for index in range(4)]
    assert where == [three.place(each, index).address for each in made for index in range(4)]
    assert min(where.count(str(i)) for i in range(3)) > 100
