"""What fails in part is counted by kind and shared out by cause, whole groups included."""

import datetime

import pytest

from penstock.ledger import Group
from penstock.telemetry import steps
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.group import CompleteGroup, Member
from services.learner.leader.failures import cause, failure_metrics


@pytest.mark.parametrize(
    ("kind", "detail", "said"),
    [
        ("FAILURE_REWARD", "math: UNAVAILABLE: connection refused", "math.UNAVAILABLE"),
        ("FAILURE_REWARD", "math: value 3 is above greatest 1", "math.invalid"),
        ("FAILURE_REWARD", "the judge's prompt names {row.x}, and the row has y", "reward"),
        ("FAILURE_REWARD", "no mark can be read: 7", "reward"),
        ("FAILURE_GENERATION", "math: UNAVAILABLE: x", "generation"),
        ("FAILURE_TIMEOUT", "", "timeout"),
    ],
)
def test_a_cause_is_of_few_words_whatever_the_text(kind: str, detail: str, said: str) -> None:
    assert cause(kind, detail) == said


def member(index: int, failure: pb.Outcome.Failure | None = None, detail: str = "") -> Member:
    t = pb.Trajectory(index=index)
    t.outcome.status = pb.Outcome.STATUS_COMPLETED if failure is None else pb.Outcome.STATUS_FAILED
    if failure is not None:
        t.outcome.failure, t.outcome.detail = failure, detail
    return Member(t, index)


def test_counts_are_of_the_batch_and_shares_of_all_that_ended_since_the_step_before() -> None:
    refused = member(0, pb.Outcome.FAILURE_REWARD, "math: UNAVAILABLE: refused")
    batch = CompleteGroup("g00000000", (refused, member(1), member(2, pb.Outcome.FAILURE_TIMEOUT), member(3)))
    whole = Group("g00000001", 2, pb.Admitted(group_size=4), datetime.datetime.now(datetime.UTC))
    whole.failures, whole.detail = {"FAILURE_REWARD": 3}, "math: UNAVAILABLE: refused"
    metrics = failure_metrics([batch], [whole])
    assert metrics == {
        "rl.samples.failed.reward": 1.0,
        "rl.samples.failed.timeout": 1.0,
        "rl.failed.math.UNAVAILABLE": 0.5,
        "rl.failed.timeout": 0.125,
    }
    assert not steps.unknown(metrics) and failure_metrics([CompleteGroup("g", (member(0),))], []) == {}
