"""Marks a run whose numbers say that training is going wrong. Pure: a fold over the step reports.

An alert is raised when a metric stays beyond its limit for several steps in a row (one step is noise), and taken back
when it does not any more; that it was raised stays in the summary. Steps that lack the metric are passed
over, but where the register says what its absence means. An alert on a family watches each member by itself.

Example, above 0.1 for 3 steps, values .2 .2 .05 .2 .2 .2 .3: raised at the sixth, still raised at the seventh.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.recipes.sections import Alert
from penstock.telemetry import steps
from penstock.trajectory.v1 import trajectory_pb2 as pb


@dataclasses.dataclass(frozen=True)
class Raised:
    """An alert that was raised for `metric` at `step`; `until` is the step that took it back; None while it stands."""

    alert: Alert
    metric: str
    step: int
    value: float
    until: int | None = None

    def __str__(self) -> str:
        limit = f"above {self.alert.above:g}" if self.alert.above is not None else f"below {self.alert.below:g}"
        return f"{self.metric} is {self.value:.4g}, {limit} for {self.alert.steps} steps (step {self.step})"


class Alerts:
    """Folds step reports, each once and in order. `raised` has every alert so far, in the order of steps."""

    def __init__(self, alerts: Sequence[Alert]) -> None:
        self.raised: list[Raised] = []
        self._alerts = list(alerts)
        self._watches: list[dict[str, _Watch]] = [{} for _ in alerts]
        self._seen = 0

    def see(self, reports: Mapping[int, pb.StepReport]) -> list[Raised]:
        """Takes the reports that are new, and gives what they raised and did not take back."""
        before = len(self.raised)
        for step in sorted(s for s in reports if s > self._seen):
            for alert, watches in zip(self._alerts, self._watches, strict=True):
                self._apply(alert, watches, step, reports[step].metrics)
            self._seen = step
        return [r for r in self.raised[before:] if r.until is None]

    def state(self) -> Any:
        """For a snapshot of the ledger."""
        raised = [[self._alerts.index(r.alert), r.metric, r.step, r.value, r.until] for r in self.raised]
        watches = [{name: [w.beyond, w.at] for name, w in each.items()} for each in self._watches]
        return {"of": self._said(), "seen": self._seen, "raised": raised, "watches": watches}

    def restore(self, state: Any) -> None:
        """Takes up `state`, unless it is of other alerts: the recipe may change them, and then they see what the ledger
        still has."""
        if state["of"] == self._said():
            self._seen = state["seen"]
            self.raised = [Raised(self._alerts[i], *rest) for i, *rest in state["raised"]]
            self._watches = [{name: _Watch(*w) for name, w in each.items()} for each in state["watches"]]

    def _said(self) -> list[str]:
        return [alert.model_dump_json() for alert in self._alerts]

    @property
    def standing(self) -> list[Raised]:
        """Those that were not taken back."""
        return [r for r in self.raised if r.until is None]

    def _apply(self, alert: Alert, watches: "dict[str, _Watch]", step: int, metrics: Mapping[str, float]) -> None:
        values = steps.members(alert.metric, metrics)
        known = steps.register().get(alert.metric)
        if known is not None and known.absent is not None:
            values = dict.fromkeys(watches, known.absent) | values
        for name, value in values.items():
            self._count(alert, name, watches.setdefault(name, _Watch()), step, value)

    def _count(self, alert: Alert, metric: str, watch: "_Watch", step: int, value: float) -> None:
        watch.beyond = watch.beyond + 1 if _beyond(alert, value) else 0
        if watch.beyond >= alert.steps and watch.at is None:
            watch.at = len(self.raised)
            self.raised.append(Raised(alert, metric, step, value))
        elif not watch.beyond and watch.at is not None:
            self.raised[watch.at] = dataclasses.replace(self.raised[watch.at], until=step)
            watch.at = None


@dataclasses.dataclass
class _Watch:
    """How many steps in a row a metric was beyond its alert's limit, and where it stands in `raised`, if it does."""

    beyond: int = 0
    at: int | None = None


def _beyond(alert: Alert, value: float) -> bool:
    """NaN is beyond every limit: it is no number that was in order."""
    inside = (alert.above is None or value <= alert.above) and (alert.below is None or value >= alert.below)
    return not inside
