"""Advantages of distillation are per token, teacher less policy, and a sample without a teacher is not trained."""

import pytest
import torch

from penstock.recipes.sections import Teacher
from penstock.trajectories import float32s, int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.distillation import JudgedSamples
from services.learner.interface.batch import Batch
from services.learner.interface.group import CompleteGroup, Member
from services.learner.testing.recipes import recipe_of


def judged(clip: float | None = None, top: int = 0) -> JudgedSamples:
    algorithm = {"advantage": "opd", "advantage_clip": clip}
    return JudgedSamples(recipe_of(teacher=Teacher(path="-", top=top), algorithm=algorithm))


def group(teacher: list[float] | None) -> CompleteGroup:
    t = pb.Trajectory(group="g", token_count=4, tokens=int32s([5, 6, 7, 8]), loss_mask=bytes([0, 1, 1, 1]))
    t.logprobs = float32s([0.0, -1.0, -2.0, -0.5])
    t.outcome.status = pb.Outcome.STATUS_COMPLETED
    if teacher is not None:
        t.teacher_logprobs = float32s(teacher)
    return CompleteGroup("g", (Member(t, 1),))


def test_the_advantage_of_a_token_is_the_teachers_logprob_less_the_policys() -> None:
    batch = Batch.from_samples(judged().samples([group([0.0, -0.5, -6.0, -0.5])]), "advantage")
    assert batch.signal.tolist() == [0.0, 0.5, -4.0, 0.0]
    clipped = Batch.from_samples(judged(1.0).samples([group([0.0, -0.5, -6.0, -0.5])]), "advantage")
    assert clipped.signal.tolist() == [0.0, 0.5, -1.0, 0.0]


def test_a_sample_without_a_teacher_is_an_error_not_a_zero() -> None:
    with pytest.raises(ValueError, match="g/0 was not judged by a teacher"):
        judged().samples([group(None)])


def test_rewards_filter_nothing() -> None:
    assert judged().filter_reason(torch.zeros(3)) is None


def test_what_the_teacher_named_travels_with_the_sample() -> None:
    given = group([0.0, -0.5, -6.0, -0.5])
    t = given.members[0].trajectory
    t.teacher_top, t.teacher_top_tokens = 2, int32s([0, 0, 6, 9, 7, 3, 8, 1])
    t.teacher_top_logprobs = float32s([0, 0, -0.5, -1.5, -0.25, -2.0, -0.5, -1.0])
    batch = Batch.from_samples(judged(top=2).samples([given]), "advantage")
    assert batch.alternatives.tolist() == [[0, 0], [6, 9], [7, 3], [8, 1]]
    assert batch.alternative_logprobs.tolist()[1] == [-0.5, -1.5]
    with pytest.raises(ValueError, match="g/0 was not judged by a teacher that names 3 tokens"):
        judged(top=3).samples([given])
