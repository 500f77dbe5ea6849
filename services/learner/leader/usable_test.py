"""Samples with another model's routes are set aside before they are trained on; what nobody replays is not kept."""

import numpy as np
import pytest

from penstock.rules.quarantine import BadEntry
from penstock.trajectories import RouteShape, TrajectoryBuilder
from penstock.trajectories.building import version
from penstock.trajectories.routes import packed
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.policy import Takes
from services.learner.leader.usable import check_takes, without_unread

SHAPE = RouteShape(2, 1, 4)


def sample() -> pb.Trajectory:
    builder = TrajectoryBuilder(wants_routes=True)
    builder.context("user", [1, 2])
    builder.begin_completion()
    builder.drawn([3], [-0.5], [pb.VersionSegment(first=0, version=version(1, 1))])
    builder.routed(packed(SHAPE, np.zeros((2, 2, 1), np.uint8)))
    t = builder.fill(pb.Trajectory(group="g00000001"))
    builder.fill(t.branches.add())
    return t


def test_routes_of_another_model_are_refused() -> None:
    check_takes(sample(), Takes(10, 10, SHAPE))
    check_takes(sample(), Takes(10, 10))
    with pytest.raises(BadEntry, match=r"has routes of RouteShape\(layers=2, top=1, experts=4\); the learner's are of"):
        check_takes(sample(), Takes(10, 10, RouteShape(2, 1, 8)))


def test_routes_that_are_not_replayed_are_not_kept() -> None:
    kept, left = without_unread(sample(), Takes(10, 10, SHAPE)), without_unread(sample(), Takes(10, 10))
    assert kept == sample()
    assert not left.HasField("routes") and not left.branches[0].HasField("routes")
