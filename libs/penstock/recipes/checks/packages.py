"""What a recipe needs of packages: the rewards and environments that it names, and trackers.

For those who start a run: other services read the same recipe in environments of their own, which need none of it. The
command line shares its environment with the coordinator and the environment service.
"""

import difflib
import importlib.machinery
import importlib.util
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from penstock.packages import Overlay, hosted
from penstock.packages.adapters import misspelt
from penstock.recipes.recipe import Recipe

TRACKERS = {"tensorboard": "tensorboard", "wandb_project": "wandb", "mlflow_experiment": "mlflow"}
_OFF = {"tensorboard": "false", "wandb_project": "null", "mlflow_experiment": "null"}


def check_packages(recipe: Recipe) -> list[str]:
    """One sentence for each thing that the recipe names and no package here has; nothing is imported."""
    beside = [] if recipe.packages.folder is None else [Overlay(pathlib.Path(recipe.packages.folder)).site]
    return [*_trackers(recipe, beside), *(_hosted(recipe, beside) if recipe.generates else ())]


def _trackers(recipe: Recipe, beside: Sequence[pathlib.Path]) -> Iterator[str]:
    for key, package in TRACKERS.items():
        if getattr(recipe.telemetry, key) and not _is_there(package, beside):
            yield (
                f"telemetry.{key}: the package {package!r} is not installed where the coordinator runs; `penstock env "
                f"add coordinator {package}` makes a folder of packages for packages.folder, or set the key to "
                f"{_OFF[key]}: metrics.jsonl has every step"
            )
    try:
        announced = hosted.trackers(beside) if recipe.telemetry.trackers else {}
    except ValueError as error:
        yield f"telemetry.trackers: {error}"
        return
    for name in recipe.telemetry.trackers:
        if name not in announced:
            known = ", ".join(difflib.get_close_matches(name, list(announced), n=1) or sorted(announced)) or "none"
            yield (
                f"telemetry.trackers: no package where the coordinator runs announces {name!r} (there: {known}); "
                "`penstock env add coordinator PACKAGE` makes a folder of packages for packages.folder"
            )


def _is_there(package: str, beside: Iterable[pathlib.Path]) -> bool:
    found = importlib.util.find_spec(package)
    return found is not None or bool(importlib.machinery.PathFinder.find_spec(package, [str(each) for each in beside]))


def _hosted(recipe: Recipe, beside: Iterable[pathlib.Path]) -> Iterator[str]:
    """What our environment service would be asked for by name, and does not have."""
    rewards, environments, agents = hosted.rewards(beside), hosted.environments(beside), hosted.agents(beside)
    for i, source in enumerate(recipe.sources.values()):
        start, environment = "" if i == 0 else f"mixture[{i - 1}].", source.environment
        if environment is None:
            continue
        if environment.plays:
            kind, known = ("agent", agents) if environment.agent else ("environment", environments)
            if environment.address is None and (words := misspelt(environment.name)) and environment.name not in known:
                yield f"{start}environment.name: {words}"
            elif environment.address is None and environment.adapter is None and environment.name not in known:
                yield _unknown(f"{start}environment.name", kind, environment.name, known)
            continue
        for j, reward in enumerate(source.rewards() if environment.adapter is None else ()):
            if not reward.is_served and reward.name not in rewards:
                where = f"environment.rewards[{j}].name" if environment.rewards else "environment.name"
                yield _unknown(f"{start}{where}", "reward", reward.name, rewards)


def _unknown(key: str, kind: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1) or [", ".join(sorted(known))]
    return (
        f"{key}: no {kind} {name!r} ships, and no package here announces one (did you mean {near[0]}?); another team's "
        "needs an address, one of your own `penstock env add environment PACKAGE`"
    )
