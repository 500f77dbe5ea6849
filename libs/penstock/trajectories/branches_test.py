"""Contexts of one sample: each drawn token is trained once, and the log takes no context that begins another."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.trajectories import (
    TrajectoryBuilder,
    TrajectoryError,
    check_trajectory,
    contexts,
    decode,
    encode,
    float32s,
    from_float32s,
    from_int32s,
    newest_step,
    oldest_step,
    trained_tokens,
)
from penstock.trajectories.branches import fill, merged
from penstock.trajectories.building import header, version
from penstock.trajectory.v1 import trajectory_pb2 as pb

TASK = pb.GroupTask(run="r", group="g00000001", kind=pb.TASK_KIND_TRAIN, group_size=4, seed=7)


def context(prompt: list[int], *turns: list[int], step: int = 3) -> TrajectoryBuilder:
    builder = TrajectoryBuilder()
    builder.context("user", prompt)
    for turn in turns:
        builder.begin_completion()
        segment = pb.VersionSegment(first=0, version=version(1, step))
        builder.drawn(turn, [-0.5] * len(turn), [segment])
        builder.end_completion(pb.FINISH_REASON_STOP)
    return builder


def sample(*builders: TrajectoryBuilder) -> pb.Trajectory:
    t = fill(header(TASK, 1, "m"), merged(builders))
    t.outcome.status, t.reward = pb.Outcome.STATUS_COMPLETED, 1.0
    return t


def other_end(main: TrajectoryBuilder, drawn: list[int], step: int = 5) -> TrajectoryBuilder:
    """A branch that begins with all of another context."""
    branch = main.given()
    branch.context("user", [90])
    branch.begin_completion()
    branch.drawn(drawn, [-1.0] * len(drawn), [pb.VersionSegment(first=0, version=version(1, step))])
    branch.end_completion(pb.FINISH_REASON_STOP)
    return branch


def test_a_sample_with_branches_is_valid_and_survives_the_wire() -> None:
    first = context([1, 2], [5, 6])
    main = context([1, 2], [5, 6], [7])
    t = sample(main, other_end(first, [8, 9]), context([40, 41], [42], step=4))
    check_trajectory(t)
    assert decode(encode(t)) == t
    assert [from_int32s(each.tokens).tolist() for each in contexts(t)] == [
        [1, 2, 5, 6, 7],
        [1, 2, 5, 6, 90, 8, 9],
        [40, 41, 42],
    ]
    assert [each.loss_mask for each in contexts(t)] == [
        bytes([0, 0, 1, 1, 1]),
        bytes([0, 0, 0, 0, 0, 1, 1]),
        bytes([0, 0, 1]),
    ]
    assert (trained_tokens(t), oldest_step(t), newest_step(t)) == (6, 3, 5)
    assert [(s.first, s.version.step) for s in t.branches[0].version_segments] == [(5, 5)]


def test_no_context_begins_another() -> None:
    first = context([1, 2], [5, 6])
    alone = sample(first, other_end(first, [8, 9]))
    check_trajectory(alone)
    assert not alone.branches, "it is taken in, in whichever order they come"
    assert alone == sample(other_end(first, [8, 9]), first)
    assert alone.loss_mask == bytes([0, 0, 1, 1, 0, 1, 1])
    assert from_float32s(alone.logprobs).tolist() == [0, 0, -0.5, -0.5, 0, -1, -1]
    assert [(s.first, s.version.step) for s in alone.version_segments] == [(2, 3), (5, 5)]
    assert [(x.role, x.finish_reason) for x in alone.turns] == [
        ("user", 0),
        ("assistant", 1),
        ("user", 0),
        ("assistant", 1),
    ]


def test_what_was_drawn_elsewhere_is_a_turn_where_it_is_taken_in() -> None:
    rendered = TrajectoryBuilder()
    rendered.context("user", [1, 2, 5, 6, 90])
    rendered.begin_completion()
    rendered.drawn([8], [-1.0], [pb.VersionSegment(first=0, version=version(1, 5))])
    rendered.end_completion(pb.FINISH_REASON_LENGTH)
    t = sample(rendered, context([1, 2], [5, 6]))
    assert t.loss_mask == bytes([0, 0, 1, 1, 0, 1]) and not t.branches
    assert [(x.role, x.start, x.end, x.finish_reason) for x in t.turns] == [
        ("user", 0, 2, 0),
        ("assistant", 2, 4, pb.FINISH_REASON_STOP),
        ("user", 4, 5, 0),
        ("assistant", 5, 6, pb.FINISH_REASON_LENGTH),
    ]


def test_a_context_that_begins_another_is_refused() -> None:
    t = sample(context([1, 2], [5, 6]))
    t.branches.append(context([1, 2], [5]).fill(pb.Branch()))
    with pytest.raises(TrajectoryError, match=r"branches\[0\] begins the main context"):
        check_trajectory(t)


def test_damage_of_a_branch_is_refused_with_its_place() -> None:
    t = sample(context([1, 2], [5, 6]), context([3, 4], [5, 6]))
    t.branches[0].logprobs = float32s([0, 0, -1, float("nan")])
    with pytest.raises(TrajectoryError, match=r"branches\[0\]: logprobs\[3\]"):
        check_trajectory(t)
    t.branches[0].logprobs = b""
    with pytest.raises(TrajectoryError, match=r"branches\[0\]"):
        check_trajectory(t)


def test_a_teacher_judges_one_context() -> None:
    t = sample(context([1, 2], [5, 6]), context([3, 4], [5, 6]))
    t.teacher_logprobs = float32s([0, 0, -1, -1])
    with pytest.raises(TrajectoryError, match="a teacher judges one context"):
        check_trajectory(t)


@given(st.randoms(use_true_random=False), st.integers(1, 8), st.integers(1, 40))
def test_a_drawn_token_is_trained_in_one_context_alone(rng: random.Random, calls: int, tokens: int) -> None:
    """Contexts that go on from any earlier one, as an agent's do. Calls may draw alike: what one call drew and another
    one, too, in the very same place is trained at least once."""
    tips = [context([1, 2], [3])]
    drawn: list[tuple[int, ...]] = [(1, 2, 3)]
    for _ in range(calls):
        before = rng.choice(tips)
        tips.append(other_end(before, [rng.randrange(tokens) for _ in range(rng.randrange(1, 4))]))
        own = tips[-1].tokens
        drawn += [tuple(own[: n + 1]) for n in range(len(before.tokens) + 1, len(own))]
    t = sample(*tips)
    check_trajectory(t)
    trained = list[tuple[int, ...]]()
    for each in contexts(t):
        own = from_int32s(each.tokens).tolist()
        trained += [tuple(own[: n + 1]) for n in range(len(own)) if each.loss_mask[n]]
    assert set(trained) == set(drawn) and len(trained) <= len(drawn)
