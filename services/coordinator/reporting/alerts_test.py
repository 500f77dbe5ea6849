"""An alert needs its limit to be passed several steps in a row, and is taken back."""

import json
import math

import pytest

from penstock.recipes.sections import Alert
from penstock.recipes.sections.run import ALERTS
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.reporting.alerts import Alerts, Raised

KL = Alert(metric="kl", above=0.1, steps=3)


def reports(*values: float | None) -> dict[int, pb.StepReport]:
    return {
        step: pb.StepReport(step=step, metrics={} if value is None else {"kl": value})
        for step, value in enumerate(values, 1)
    }


def raised(alerts: list[Alert], shown: dict[int, pb.StepReport]) -> list[Raised]:
    fold = Alerts(alerts)
    fold.see(shown)
    return fold.raised


def test_the_worked_example() -> None:
    (only,) = raised([KL], reports(0.2, 0.2, 0.05, 0.2, 0.2, 0.2, 0.3))
    assert (only.step, only.value, only.until) == (6, 0.2, None)
    assert str(only) == "kl is 0.2, above 0.1 for 3 steps (step 6)"


def test_it_is_taken_back_and_may_come_again() -> None:
    found = raised([KL], reports(*[0.2] * 3, 0.1, *[0.2] * 3))
    assert [(r.step, r.until) for r in found] == [(3, 4), (7, None)]


def test_below_and_not_a_number() -> None:
    low = Alert(metric="kl", below=0.5, steps=1)
    assert [r.step for r in raised([low], reports(0.5, 0.4))] == [2]
    assert [r.step for r in raised([KL.model_copy(update={"steps": 1})], reports(math.nan))] == [1]


def test_reports_are_taken_once_however_often_they_are_shown() -> None:
    alerts = Alerts([KL])
    for shown in (2, 3, 3, 5, 5):
        alerts.see(reports(*([0.2] * shown)))
    assert [r.step for r in alerts.raised] == [3] == [r.step for r in alerts.standing]


@pytest.mark.parametrize("values", [(0.2, 0.2), (0.2, 0.2, 0.1), (None, None, None)])
def test_noise_and_missing_metrics_raise_nothing(values: tuple[float | None, ...]) -> None:
    assert raised([KL], reports(*values)) == []
    assert [r.step for r in raised([KL], reports(0.2, 0.2, None, 0.2))] == [4]


def failing(*shares: dict[str, float]) -> dict[int, pb.StepReport]:
    return {step: pb.StepReport(step=step, metrics=each) for step, each in enumerate(shares, 1)}


def test_by_default_a_reward_that_fails_in_part_is_named_with_its_status() -> None:
    some = {"rl.failed.math.UNAVAILABLE": 0.06, "rl.failed.style.invalid": 0.04}
    fold = Alerts(ALERTS)
    fold.see(failing(some, some))
    assert not fold.raised
    (only,) = fold.see(failing(some, some, some))
    assert str(only) == "rl.failed.math.UNAVAILABLE is 0.06, above 0.05 for 3 steps (step 3)"
    assert fold.see(failing(some, some, some, {})) == fold.standing == []  # a share that is not told is 0
    assert [(r.metric, r.until) for r in fold.raised] == [("rl.failed.math.UNAVAILABLE", 4)]


def test_a_restart_changes_nothing_and_other_alerts_see_what_there_is() -> None:
    shown = reports(0.2, 0.2, 0.2, 0.0, 0.2, 0.2)
    first, again, other = Alerts([KL]), Alerts([KL]), Alerts([Alert(metric="kl", above=0.1, steps=2)])
    first.see({step: r for step, r in shown.items() if step < 6})
    for each in (again, other):
        each.restore(json.loads(json.dumps(first.state())))
        each.see(shown)
    assert again.raised == raised([KL], shown)
    assert other.raised == raised([Alert(metric="kl", above=0.1, steps=2)], shown)
