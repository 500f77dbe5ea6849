"""Marks a run whose numbers say that training is going wrong. Pure: a fold over the step reports.

An alert is raised when a metric stays beyond its limit for several steps in a row (one step is noise), and taken back
when it does not any more; that it was raised stays in the summary. Steps that lack the metric are passed over.

Example, above 0.1 for 3 steps, values .2 .2 .05 .2 .2 .2 .3: raised at the sixth, still raised at the seventh.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from penstock.recipes.sections import Alert
from penstock.trajectory.v1 import trajectory_pb2 as pb


@dataclasses.dataclass(frozen=True)
class Raised:
    """An alert that was raised at `step`; `until` is the step that took it back, or None while it stands."""

    alert: Alert
    step: int
    value: float
    until: int | None = None

    def __str__(self) -> str:
        limit = f"above {self.alert.above:g}" if self.alert.above is not None else f"below {self.alert.below:g}"
        return f"{self.alert.metric} is {self.value:.4g}, {limit} for {self.alert.steps} steps (step {self.step})"


class Alerts:
    """Folds step reports, each once and in order. `raised` has every alert so far, in the order of steps."""

    def __init__(self, alerts: Sequence[Alert]) -> None:
        self.raised: list[Raised] = []
        self._watches = [_Watch(alert) for alert in alerts]
        self._seen = 0

    def see(self, reports: Mapping[int, pb.StepReport]) -> None:
        """Takes the reports that are new."""
        for step in sorted(s for s in reports if s > self._seen):
            for watch in self._watches:
                self._apply(watch, step, reports[step].metrics)
            self._seen = step

    @property
    def standing(self) -> list[Raised]:
        """Those that were not taken back."""
        return [r for r in self.raised if r.until is None]

    def _apply(self, watch: "_Watch", step: int, metrics: Mapping[str, float]) -> None:
        alert = watch.alert
        if alert.metric not in metrics:
            return
        value = metrics[alert.metric]
        watch.beyond = watch.beyond + 1 if _beyond(alert, value) else 0
        if watch.beyond >= alert.steps and watch.at is None:
            watch.at = len(self.raised)
            self.raised.append(Raised(alert, step, value))
        elif not watch.beyond and watch.at is not None:
            self.raised[watch.at] = dataclasses.replace(self.raised[watch.at], until=step)
            watch.at = None


@dataclasses.dataclass
class _Watch:
    """How many steps in a row an alert's metric was beyond its limit, and where it stands in `raised`, if it does."""

    alert: Alert
    beyond: int = 0
    at: int | None = None


def _beyond(alert: Alert, value: float) -> bool:
    """NaN is beyond every limit: it is no number that was in order."""
    inside = (alert.above is None or value <= alert.above) and (alert.below is None or value >= alert.below)
    return not inside
