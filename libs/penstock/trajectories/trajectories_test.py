"""A trajectory survives the wire, and one that does not make sense is refused with the field's name."""

from collections.abc import Callable

import pytest

from penstock.trajectories import (
    TrajectoryBuilder,
    TrajectoryError,
    check_trajectory,
    decode,
    encode,
    failed,
    float32s,
    from_int32s,
    int32s,
    oldest_step,
)
from penstock.trajectories.building import header, version
from penstock.trajectory.v1 import trajectory_pb2 as pb

TASK = pb.GroupTask(run="r", group="g00000001", kind=pb.TASK_KIND_TRAIN, group_size=4, seed=7)
TASK.rollout.task.id = "rows/1"
TASK.rollout.sampling.max_tokens = 8
TASK.rollout.sampling.top_p = 1


def sample() -> pb.Trajectory:
    b = TrajectoryBuilder()
    b.context("user", [3, 4])
    b.begin_completion()
    b.drawn([5, 6], [-0.5, -0.25], [pb.VersionSegment(first=0, version=version(1, 3))])
    b.drawn([7], [-1.0], [pb.VersionSegment(first=0, version=version(1, 4))])
    b.end_completion(pb.FINISH_REASON_STOP)
    t = b.fill(header(TASK, 1, "m"))
    t.outcome.status = pb.Outcome.STATUS_COMPLETED
    t.reward = 1.0
    return t


def test_a_built_trajectory_is_valid_and_survives_the_wire() -> None:
    t = sample()
    check_trajectory(t)
    assert decode(encode(t)) == t
    assert from_int32s(t.tokens).tolist() == [3, 4, 5, 6, 7]
    assert t.loss_mask == bytes([0, 0, 1, 1, 1])
    assert [(s.first, s.version.step) for s in t.version_segments] == [(2, 3), (4, 4)]
    assert oldest_step(t) == 3
    assert [(x.role, x.start, x.end) for x in t.turns] == [("user", 0, 2), ("assistant", 2, 5)]
    assert t.seed == 8


def test_adjacent_chunks_of_one_version_share_a_segment() -> None:
    b = TrajectoryBuilder()
    b.context("user", [1])
    b.begin_completion()
    for token in (5, 6):
        b.drawn([token], [-0.5], [pb.VersionSegment(first=0, version=version(1, 3))])
    assert len(b.fill(header(TASK, 0, "m")).version_segments) == 1


def nan_logprob(t: pb.Trajectory) -> None:
    t.logprobs = float32s([0, 0, -1, float("nan"), -1])


def short_tokens(t: pb.Trajectory) -> None:
    t.tokens = t.tokens[:-4]


def positive_logprob(t: pb.Trajectory) -> None:
    t.logprobs = float32s([0, 0, -1, 2, -1])


def no_mask(t: pb.Trajectory) -> None:
    t.loss_mask, t.logprobs = bytes(5), bytes(20)


def stray_logprob(t: pb.Trajectory) -> None:
    t.logprobs = float32s([-1, 0, -1, -1, -1])


def reward_of_failure(t: pb.Trajectory) -> None:
    t.outcome.status, t.outcome.failure = pb.Outcome.STATUS_FAILED, pb.Outcome.FAILURE_REWARD


def nan_reward(t: pb.Trajectory) -> None:
    t.reward = float("nan")


def index_beyond(t: pb.Trajectory) -> None:
    t.index = 4


def late_segment(t: pb.Trajectory) -> None:
    t.version_segments[0].first = 3


def negative_token(t: pb.Trajectory) -> None:
    t.tokens = int32s([3, -4, 5, 6, 7])


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (nan_logprob, "logprobs[3]"),
        (short_tokens, "token_count"),
        (positive_logprob, "at most 0"),
        (no_mask, "no trained token"),
        (stray_logprob, "where loss_mask is 0"),
        (reward_of_failure, "no reward"),
        (nan_reward, "reward"),
        (index_beyond, "group_size"),
        (late_segment, "first trained token"),
        (negative_token, "negative id"),
    ],
)
def test_damage_is_refused_with_the_field(damage: Callable[[pb.Trajectory], None], word: str) -> None:
    t = sample()
    damage(t)
    with pytest.raises(TrajectoryError) as error:
        check_trajectory(t)
    assert word in str(error.value)


def test_garbage_is_not_a_trajectory() -> None:
    for payload in (b"", b"garbage", encode(sample())[:-3]):
        with pytest.raises(TrajectoryError, match="not a trajectory"):
            decode(payload)


def test_a_failed_sample_is_valid_and_has_no_reward() -> None:
    t = failed(TASK, 2, "m", pb.Outcome.FAILURE_TIMEOUT, "engine did not answer")
    check_trajectory(t)
    assert not t.HasField("reward")
