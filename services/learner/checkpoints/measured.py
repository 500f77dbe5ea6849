"""What checkpoints are kept by: one metric of the steps, which some steps have and some have not."""

import statistics
from collections.abc import Mapping

from penstock.recipes import Recipe
from penstock.recipes.sections import Checkpoints
from penstock.telemetry import steps
from services.learner.interface.errors import CannotGoOn


def first_measured(recipe: Recipe, after: int) -> int | None:
    """The step after `after` at which the metric that checkpoints are kept by is measured; None where nobody can say:
    members of a family come when there are some."""
    metric = steps.find(recipe.learner.checkpoints.metric)
    if metric is None or metric.each:
        return None
    if metric.name.startswith(steps.VALIDATION):
        return next((step for step in recipe.evaluation_steps if step > after), None)
    return max(after, recipe.algorithm.critic.warmup_steps if recipe.has_critic else 0) + 1


class Measured:
    """The metric since the checkpoint before. A step without it is left out of the mean."""

    def __init__(self, settings: Checkpoints, due: int | None) -> None:
        """due: the step at which it must have come at last, where checkpoints are kept by it."""
        self._metric, self._due = settings.metric, due if settings.keep_best else None
        self._values: list[float] = []

    def take(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a step; none on a rank that does not report. Raises CannotGoOn if the metric has not
        come when it is due."""
        if self._metric in metrics:
            self._values.append(metrics[self._metric])
            self._due = None
        elif metrics and self._due is not None and step >= self._due:
            raise CannotGoOn(
                f"learner.checkpoints.metric: {self._metric!r} is no metric of a step; there are "
                f"{', '.join(sorted(metrics))}"
            )

    def mean(self) -> dict[str, float]:
        """By its name, over the steps since this was asked last; empty if none of them had it."""
        values, self._values = self._values, []
        return {self._metric: statistics.fmean(values)} if values else {}
