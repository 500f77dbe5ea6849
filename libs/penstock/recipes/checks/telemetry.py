"""Alerts that could never be raised, or always are."""

from penstock.recipes.recipe import Recipe


def check_telemetry(recipe: Recipe) -> list[str]:
    return [
        f"telemetry.alerts.{i}: {alert.metric!r} needs exactly one of above and below"
        for i, alert in enumerate(recipe.telemetry.alerts)
        if (alert.above is None) == (alert.below is None)
    ]
