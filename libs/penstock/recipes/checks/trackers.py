"""Trackers that a recipe names and whose package is not there.

For those who start a run: other services read the same recipe in environments of their own, which need no tracker. The
command line shares the coordinator's.
"""

import importlib.util

from penstock.recipes.recipe import Recipe

PACKAGES = {"tensorboard": "tensorboard", "wandb_project": "wandb", "mlflow_experiment": "mlflow"}
_OFF = {"tensorboard": "false", "wandb_project": "null", "mlflow_experiment": "null"}


def check_trackers(recipe: Recipe) -> list[str]:
    """One sentence for each key of `telemetry` whose package cannot be imported here; nothing is imported."""
    asked = {key: package for key, package in PACKAGES.items() if getattr(recipe.telemetry, key)}
    return [
        f"telemetry.{key}: the package {package!r} is not installed where the coordinator runs; add it to "
        f"bazel/venvs/light.in and renew the lock (CONTRIBUTING.md), or set the key to {_OFF[key]}: metrics.jsonl has "
        "every step"
        for key, package in asked.items()
        if importlib.util.find_spec(package) is None
    ]
