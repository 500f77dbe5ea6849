"""An evaluation is planned, resumed and reported without ever counting what was not measured."""

from itertools import combinations
from math import comb

import pytest

from penstock.ledger import Ledger
from penstock.recipes.sections import Evaluation
from penstock.telemetry.evaluations import known
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.evaluation.plan import next_due, pass_at_k, report, target_reached


def sample(task: str, reward: float | None, length: int = 2, answer: str | None = None) -> pb.Trajectory:
    t = pb.Trajectory(task_id=task, environment="e", source="e", answer=answer, loss_mask=b"\0" + b"\1" * length)
    if reward is None:
        t.outcome.status = pb.Outcome.STATUS_FAILED
        t.outcome.failure = pb.Outcome.FAILURE_TIMEOUT
    else:
        t.outcome.status, t.reward = pb.Outcome.STATUS_COMPLETED, reward
    return t


def test_what_is_recorded_or_given_up_is_not_done_again() -> None:
    ledger = Ledger()
    assert next_due([0, 4, 8], ledger, set()) == 0
    ledger.apply_evaluation(pb.EvaluationReport(step=0, samples=1), 1)
    assert next_due([0, 4, 8], ledger, set()) == 4
    assert next_due([0, 4, 8], ledger, {4}) == 8
    assert next_due([0, 4, 8], ledger, {4, 8}) is None


def test_a_reward_is_reached_from_below_and_a_loss_from_above() -> None:
    ledger = Ledger()
    for step, (name, value) in enumerate((("reward", 0.4), ("reward", 0.6), ("loss", 2.0), ("loss", 1.0))):
        ledger.apply_evaluation(pb.EvaluationReport(step=step, samples=1, metrics={name: value}), step + 1)
    assert target_reached(Evaluation(), ledger) == ""
    reward = target_reached(Evaluation(target_reward=0.5), ledger)
    assert reward == "evaluation of version 1: reward 0.6 reached the target 0.5"
    assert target_reached(Evaluation(target_loss=1.0), ledger).startswith("evaluation of version 3: loss 1")
    assert target_reached(Evaluation(target_loss=0.9, target_reward=0.7), ledger) == ""


def test_failed_samples_are_counted_but_never_measured_as_zero() -> None:
    result = report(3, [sample("a", 1.0, 4), sample("a", 0.0, 2), sample("b", 0.5, 6), sample("b", None)])
    assert result.samples == 3 and result.step == 3
    assert dict(result.metrics) == {"reward": 0.5, "best_of_n": 0.75, "length": 4.0, "failed": 1.0, "pass@1": 0.25}


def test_no_scored_sample_is_an_error_not_a_score_of_zero() -> None:
    with pytest.raises(ValueError, match="none of 2 samples was scored"):
        report(3, [sample("a", None), sample("b", None)])
    with pytest.raises(ValueError, match="none of 0"):
        report(3, [])


@pytest.mark.parametrize("solved", range(5))
@pytest.mark.parametrize("k", range(1, 5))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_solved_sample(solved: int, k: int) -> None:
    draws = list(combinations([True] * solved + [False] * (4 - solved), k))
    assert len(draws) == comb(4, k)
    assert pass_at_k(4, solved, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_refuses_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="1 <= k <= n"):
        pass_at_k(3, 1, 4)


def test_votes_count_answers_and_tasks_count_once() -> None:
    """Task a: right answers are the majority; task b: one right answer against two equal wrong ones."""
    first = [sample("a", r, answer=x) for r, x in ((1.0, "7"), (0.0, "8"), (1.0, "7"))]
    second = [sample("b", r, answer=x) for r, x in ((1.0, "3"), (0.0, "5"), (0.0, "5"))]
    for t in second:
        t.source = "f"
    metrics = report(0, [*first, *second]).metrics
    assert metrics["cons@3"] == 0.5 and all(map(known, metrics))
    assert metrics["pass@1"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert metrics["pass@2"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["reward.e"] == pytest.approx(2 / 3) and metrics["reward.f"] == pytest.approx(1 / 3)
    assert "cons@3" not in report(0, [sample("a", 1.0), sample("a", 1.0), sample("a", 1.0)]).metrics
    assert report(0, [sample("a", 0.6)], solved_at=0.5).metrics["pass@1"] == 1.0


def test_one_part_of_the_reward_can_be_measured_whatever_its_weight() -> None:
    """What is trained on (a reward model's word) and what is meant (a checker's) are told apart."""
    samples = [sample("a", 7.5), sample("b", -1.0), sample("c", None)]
    for t, right in zip(samples[:2], (0.0, 1.0), strict=True):
        t.components.add(name="model", value=t.reward, weight=1.0)
        t.components.add(name="checker", value=right, weight=0.0)
    metrics = report(0, samples, reward="checker").metrics
    assert metrics["reward"] == metrics["pass@1"] == 0.5 and metrics["failed"] == 1.0
    assert all(map(known, metrics)) and not known("rewards")
    assert metrics["component.model"] == 3.25 and metrics["component.checker"] == 0.5
    assert report(0, samples).metrics["reward"] == 3.25
    with pytest.raises(ValueError, match="have no part 'chekcer'; they have model, checker"):
        report(0, samples, reward="chekcer")
