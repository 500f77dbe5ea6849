"""Alerts that could never be raised, or always are."""

from penstock.recipes.recipe import Recipe
from penstock.telemetry import steps


def check_telemetry(recipe: Recipe) -> list[str]:
    """Alerts on a metric that nothing reports, or with none or both of their limits."""
    problems = []
    for i, alert in enumerate(recipe.telemetry.alerts):
        metric = steps.find(alert.metric) or steps.register().get(alert.metric)
        if metric is None or not metric.reported:
            near = steps.nearest(alert.metric)
            problems.append(f"telemetry.alerts.{i}: {alert.metric!r} is no metric of a step; did you mean {near!r}?")
        if (alert.above is None) == (alert.below is None):
            problems.append(f"telemetry.alerts.{i}: {alert.metric!r} needs exactly one of above and below")
    return problems
