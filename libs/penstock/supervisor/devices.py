"""Which GPUs of a host each of its processes has.

    learner 2 ranks, generation 2 x 1, on a host of four    learner 0,1   generation-0 2   generation-1 3

What a recipe names by index counts; the others get what nobody has or is named for. Where too few are left a process
sees all of them and shares, as on a host of one.

Invariants (test names): no two processes have one device unless the recipe says so or too few are there; what one that
has ended had is free again; an index that the host has not is refused.
"""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence

from penstock.recipes import Recipe
from penstock.supervisor.plan import kind_of
from penstock.system.gpus import DRIVER, gpus

logger = logging.getLogger(__name__)
VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible(environment: Mapping[str, str] = os.environ, driver: pathlib.Path = DRIVER) -> list[str]:
    """The GPUs that this process may give: those that its environment names, else all of the host's."""
    said = environment.get(VISIBLE)
    if said is not None:
        names = [name for each in said.split(",") if (name := each.strip())]
        return names[: names.index("-1")] if "-1" in names else names
    return [str(i) for i in range(gpus(driver))]


def wanted(recipe: Recipe, name: str) -> tuple[int, Sequence[int] | None]:
    """How many GPUs a process uses where there are any, and which of the host the recipe names."""
    number = int(tail) if (tail := name.rpartition("-")[2]).isdigit() else 0
    match kind_of(name):
        case "learner":
            return recipe.learner.ranks // recipe.learner.nodes, recipe.learner.devices
        case "generation":
            size, named = recipe.generation.tensor, recipe.generation.devices
            own = named[number * size : (number + 1) * size] if named is not None else ()
            return size, own if len(own) == size else None
        case "teacher":
            return (recipe.teacher.tensor if recipe.teacher is not None else 1), None
        case "judge":
            sizes = [judge.tensor for judge in recipe.judges.values() for _ in range(judge.replicas)]
            return sizes[number % len(sizes)], None
        case "reward_model":
            return 1, None
        case _:
            return 0, None


class Devices:
    """Those of one host. there: their names, as CUDA_VISIBLE_DEVICES has them."""

    def __init__(self, there: Sequence[str]) -> None:
        self._there = list(there)
        self._held: dict[str, list[str]] = {}

    def variables(self, recipe: Recipe, name: str, alive: Collection[str]) -> dict[str, str]:
        """What tells a process its devices; nothing on a host without any, or for one that needs none. alive: the
        processes that there are.

        Raises ValueError, in one sentence.
        """
        count, named = wanted(recipe, name)
        if not self._there or not count:
            return {}
        self._held = {other: held for other, held in self._held.items() if other in alive}
        if named is not None:
            return {VISIBLE: ",".join(self._keep(name, [self._named(name, index) for index in named]))}
        reserved = (*(recipe.learner.devices or ()), *(recipe.generation.devices or ()))
        taken = {device for held in self._held.values() for device in held}
        free = [d for i, d in enumerate(self._there) if d not in taken and i not in reserved]
        if len(free) < count:
            logger.warning("%s shares GPUs with others: %d of %d are left", name, len(free), len(self._there))
            return {VISIBLE: ",".join(self._there)}
        return {VISIBLE: ",".join(self._keep(name, free[:count]))}

    def _keep(self, name: str, devices: list[str]) -> list[str]:
        self._held[name] = devices
        return devices

    def _named(self, name: str, index: int) -> str:
        if index >= len(self._there):
            raise ValueError(
                f"{kind_of(name)}.devices names {index}, and this host has {len(self._there)} GPUs, from 0"
            )
        return self._there[index]
