"""Groups of a mixture are judged and weighed by their own source's settings, and stay in the batch's order."""

from typing import Any

import numpy as np
import pytest

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.trajectories import TrajectoryBuilder
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.policy_gradient.samples import AdvantageSamples
from services.learner.algorithms.sources import Sources
from services.learner.interface.group import CompleteGroup, Member
from services.learner.leader.preparation import prepare
from services.learner.testing.recipes import recipe_of


def group(name: str, source: str, rewards: list[float]) -> CompleteGroup:
    members = []
    for index, reward in enumerate(rewards):
        builder = TrajectoryBuilder()
        builder.context("user", [3])
        builder.begin_completion()
        builder.drawn([int(name[1:]), index], [-0.1, -0.2], [pb.VersionSegment(version=PolicyVersion(step=1))])
        t = builder.fill(pb.Trajectory(group=name, index=index, source=source, reward=reward))
        members.append(Member(t, index))
    return CompleteGroup(name, tuple(members))


def maker(**algorithm: Any) -> AdvantageSamples:
    return AdvantageSamples(recipe_of(algorithm=algorithm))


@pytest.fixture
def sources() -> Sources:
    scaled = maker(advantage="dr_grpo", reward_scale=10.0)
    whitened = maker(advantage="batch_norm", filters={"zero_variance": True})
    return Sources({"a": scaled, "b": whitened})


def test_each_source_has_its_own_filters(sources: Sources) -> None:
    assert sources.filter_reason(group("g1", "a", [1.0, 1.0])) is None
    assert sources.filter_reason(group("g1", "b", [1.0, 1.0])) == "zero_variance"
    assert sources.filter_reason(group("g1", "", [1.0, 1.0])) is None, "what names no source is the first one's"


def test_a_scale_over_the_batch_is_over_the_sources_own_groups(sources: Sources) -> None:
    """b's rewards vary ten times as much in its second group; a's do not count."""
    groups = [group("g1", "b", [0.0, 0.1]), group("g2", "a", [0.0, 1.0]), group("g3", "b", [0.0, 1.0])]
    alone = Sources({"b": maker(advantage="batch_norm")})
    expected = [s.signal for s in alone.samples([groups[0], groups[2]])]
    made = sources.samples(groups)
    assert [s.group for s in made] == [0, 0, 1, 1, 2, 2]
    assert [int(np.asarray(s.tokens)[1]) for s in made] == [1, 1, 2, 2, 3, 3], "each sample keeps its group"
    assert [s.signal for s in made if s.group != 1] == pytest.approx(expected)
    assert [s.signal for s in made if s.group == 1] == pytest.approx([-5.0, 5.0])


def test_truncated_answers_are_neither_trained_nor_a_vote_in_the_baseline() -> None:
    """Rewards 0, 1 and a truncated 1: the baseline is 0.5, not 2/3."""
    dr_grpo = maker(advantage="dr_grpo")
    sources = Sources({"a": dr_grpo, "b": dr_grpo}, whole_only=["a"])
    given = group("g1", "a", [0.0, 1.0, 1.0])
    given.members[2].trajectory.outcome.status = pb.Outcome.STATUS_TRUNCATED
    assert [s.signal for s in sources.samples([sources.kept(given)])] == [-0.5, 0.5]
    prepared = prepare([given], sources, 3)
    assert (prepared.metrics["rl.samples.trained"], prepared.metrics["rl.samples.masked"]) == (2.0, 1.0)
    assert [t.index for t in prepared.trajectories] == [0, 1]
    assert prepared.metrics["rl.reward.mean"] == pytest.approx(2 / 3), "what was left out was scored all the same"
    for member in given.members:
        member.trajectory.outcome.status = pb.Outcome.STATUS_TRUNCATED
    assert sources.filter_reason(given) == "no_valid_sample"
    other = group("g2", "b", [0.0, 1.0, 1.0])
    other.members[2].trajectory.outcome.status = pb.Outcome.STATUS_TRUNCATED
    assert sources.filter_reason(other) is None and len(sources.samples([sources.kept(other)])) == 3


def test_a_group_says_its_mean_reward_when_it_is_released() -> None:
    assert group("g1", "a", [0.0, 1.0, 0.5]).record().reward == 0.5
    assert not CompleteGroup("g1", (Member(pb.Trajectory(), 1),)).record().HasField("reward")
