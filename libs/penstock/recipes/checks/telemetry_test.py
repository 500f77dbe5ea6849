"""An alert that could never be raised is refused."""

from typing import Any

from penstock.recipes import resolve
from penstock.recipes.refusals_testing import problems


def test_an_alert_on_a_metric_that_nothing_reports_names_the_nearest(raw: dict[str, Any]) -> None:
    assert "telemetry.alerts.0: 'rl.policy.clipshare' is no metric of a step; did you mean 'rl.policy.clip_share'?" in (
        problems(raw, "telemetry.alerts=[{metric: rl.policy.clipshare, above: 0.5}]")
    )
    assert "did you mean" in problems(raw, "telemetry.alerts=[{metric: rl.tasks.pending, above: 9}]")
    one = "{metric: rl.reward.component.parsed, below: 0.1}, {metric: rl.staleness.share.2, above: 0.5}"
    assert len(resolve(raw, [f"telemetry.alerts=[{one}]"]).telemetry.alerts) == 2
