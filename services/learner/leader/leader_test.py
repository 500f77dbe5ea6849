"""What rank 0 does about a version store that has lost the version which the weights are."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock.common.v1.common_pb2 import PolicyVersion
from services.learner.leader.idle import Idle
from services.learner.leader.leader import RunLeader
from services.learner.publishing.together import Alone


def leader(held: PolicyVersion | None) -> RunLeader:
    opened = SimpleNamespace(batches=None, held=held, watcher=None)
    nothing = cast(Any, None)
    return RunLeader(nothing, cast(Any, opened), nothing, None, nothing, True, 1, False, Alone())


@pytest.mark.parametrize(
    ("step", "held", "lacks"),
    [
        (0, None, False),  # version 0 is the model that engines are started with
        (7, None, True),
        (7, PolicyVersion(epoch=3, step=6), True),
        (7, PolicyVersion(epoch=3, step=7), False),
        (7, PolicyVersion(epoch=3, step=9), False),  # its steps are trained again, and engines keep what they have
    ],
)
def test_a_version_that_weight_sync_has_lost_or_never_had_is_to_be_published(
    step: int, held: PolicyVersion | None, lacks: bool
) -> None:
    assert leader(held).lacks(step) == lacks
    assert not Idle().lacks(step)
