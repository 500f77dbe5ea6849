"""A teacher over real gRPC that is away, answers late, wrongly, or not with numbers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from penstock import rpc
from penstock.generation.v1 import generation_pb2 as pb
from penstock.generation.v1 import generation_pb2_grpc
from penstock.replicas.engines import GenerationFailed
from penstock.trajectories import float32s, from_float32s, from_int32s, int32s
from penstock.trajectory.v1 import trajectory_pb2
from services.rollout.teacher import teacher


def truthful(tokens: list[int]) -> list[float]:
    return [-t / 10 for t in tokens]


@dataclass
class FakeTeacher(generation_pb2_grpc.GenerationServiceServicer):
    """Says -id/10 of every token, after the errors that it is given."""

    # Nobody asks it these: generated code answers UNIMPLEMENTED, and only its stubs call them abstract.
    Drain: ClassVar[Any]
    Generate: ClassVar[Any]
    GetEngine: ClassVar[Any]
    Resume: ClassVar[Any]

    errors: list[rpc.Abort] = field(default_factory=list)
    says: Callable[[list[int]], list[float]] = truthful
    asked: int = 0
    forgets: int = 0

    async def ScoreTokens(self, request: pb.ScoreTokensRequest, context: Any) -> pb.ScoreTokensResponse:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        scores = self.says(from_int32s(request.tokens).tolist()[request.first :])
        named = [10 * i + j for i in range(len(scores)) for j in range(request.top - self.forgets)]
        return pb.ScoreTokensResponse(
            logprobs=float32s(scores),
            count=len(scores),
            top_tokens=int32s(named),
            top_logprobs=float32s([-float(n) for n in named]),
        )


def trajectory() -> trajectory_pb2.Trajectory:
    """Two turns: tokens 12 and 13, then 15, were drawn."""
    return trajectory_pb2.Trajectory(
        group="g", token_count=6, tokens=int32s([10, 11, 12, 13, 14, 15]), loss_mask=bytes([0, 0, 1, 1, 0, 1])
    )


async def judged(*teachers: FakeTeacher, within: float = 10.0) -> list[float]:
    t = await judgement(*teachers, within=within)
    return [round(x, 4) for x in from_float32s(t.teacher_logprobs).tolist()]


async def judgement(*teachers: FakeTeacher, within: float = 10.0, top: int = 0) -> trajectory_pb2.Trajectory:
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        addresses = []
        for each in teachers:
            server = await stack.enter_async_context(rpc.Server("teacher"))
            server.add(generation_pb2_grpc.add_GenerationServiceServicer_to_server, each)
            await server.start()
            addresses.append(server.address)
        t = trajectory()
        tutor = await stack.enter_async_context(teacher(addresses, rpc.Security(), top))
        await tutor.judge(t, time.monotonic() + within)
        return t


async def test_only_drawn_tokens_are_judged() -> None:
    assert await judged(FakeTeacher()) == [0, 0, -1.2, -1.3, 0, -1.5]


async def test_what_the_teacher_would_rather_have_drawn_stands_at_drawn_tokens_alone() -> None:
    t = await judgement(FakeTeacher(), top=2)
    assert t.teacher_top == 2
    assert from_int32s(t.teacher_top_tokens).tolist() == [
        *[0, 0],  # tokens 0 and 1 are the prompt,
        *[0, 0],
        *[0, 1],  # 2 and 3 were drawn,
        *[10, 11],
        *[0, 0],  # 4 is an observation
        *[30, 31],
    ]
    assert from_float32s(t.teacher_top_logprobs).tolist()[4:8] == [0, -1, -10, -11]


async def test_a_teacher_that_names_too_few_fails_the_sample() -> None:
    with pytest.raises(GenerationFailed, match="named 4 tokens with 4 values, 8 were asked for"):
        await judgement(FakeTeacher(forgets=1), top=2)


async def test_another_replica_is_asked_while_one_is_away() -> None:
    away, there = FakeTeacher([rpc.unavailable("starting", retry_after=0.01)] * 9), FakeTeacher()
    assert (await judged(away, there))[2] == -1.2
    assert (away.asked, there.asked) == (1, 1)


async def test_a_teacher_that_stays_away_fails_the_sample_in_its_time() -> None:
    with pytest.raises(GenerationFailed, match="the teacher: UNAVAILABLE"):
        await judged(FakeTeacher([rpc.unavailable("starting", retry_after=0.05)] * 1000), within=0.5)


@pytest.mark.parametrize("says", [lambda t: [], lambda t: [float("nan")] * len(t), lambda t: [-1.0] * (len(t) + 1)])
async def test_an_answer_that_makes_no_sense_fails_the_sample(says: Callable[[list[int]], list[float]]) -> None:
    with pytest.raises(GenerationFailed, match="values for 4 tokens, or one that is not finite"):
        await judged(FakeTeacher(says=says))


async def test_a_refusal_is_not_repeated() -> None:
    refusing = FakeTeacher([rpc.invalid_argument("tokens")])
    with pytest.raises(GenerationFailed, match="INVALID_ARGUMENT"):
        await judged(refusing)
    assert refusing.asked == 1
