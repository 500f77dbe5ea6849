"""An evaluation is planned, resumed and reported without ever counting what was not measured."""

import pytest

from penstock.ledger import Ledger
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.evaluation import next_due, report, schedule


def sample(task: str, reward: float | None, length: int = 2) -> pb.Trajectory:
    t = pb.Trajectory(task_id=task, loss_mask=b"\0" + b"\1" * length)
    if reward is None:
        t.outcome.status = pb.Outcome.STATUS_FAILED
        t.outcome.failure = pb.Outcome.FAILURE_TIMEOUT
    else:
        t.outcome.status, t.reward = pb.Outcome.STATUS_COMPLETED, reward
    return t


def test_the_first_and_the_last_version_are_always_evaluated() -> None:
    assert schedule(0, 10) == [0, 10]
    assert schedule(4, 10) == [0, 4, 8, 10]
    assert schedule(5, 10) == [0, 5, 10]
    assert schedule(20, 10) == [0, 10]


def test_what_is_recorded_or_given_up_is_not_done_again() -> None:
    ledger = Ledger()
    assert next_due([0, 4, 8], ledger, set()) == 0
    ledger.apply_evaluation(pb.EvaluationReport(step=0, samples=1), 1)
    assert next_due([0, 4, 8], ledger, set()) == 4
    assert next_due([0, 4, 8], ledger, {4}) == 8
    assert next_due([0, 4, 8], ledger, {4, 8}) is None


def test_failed_samples_are_counted_but_never_measured_as_zero() -> None:
    result = report(3, [sample("a", 1.0, 4), sample("a", 0.0, 2), sample("b", 0.5, 6), sample("b", None)])
    assert result.samples == 3 and result.step == 3
    assert dict(result.metrics) == {"reward": 0.5, "best_of_n": 0.75, "length": 4.0, "failed": 1.0}


def test_no_scored_sample_is_an_error_not_a_score_of_zero() -> None:
    with pytest.raises(ValueError, match="none of 2 samples was scored"):
        report(3, [sample("a", None), sample("b", None)])
    with pytest.raises(ValueError, match="none of 0"):
        report(3, [])
