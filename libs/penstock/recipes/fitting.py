"""`learner.micro_batch_tokens: auto` becomes a number that fits, before anything else of the recipe is judged.

With `learner.device_gib` it is the largest power of two whose micro-batch leaves a tenth of the device free. Without,
the learner computes on CPUs, where a large micro-batch costs memory and gains nothing: the smallest that is not slow.
Neither is below the longest sample. The resolved recipe has the number, so a run that goes on keeps it.
"""

from typing import Any

from penstock.memory_plan import GIB
from penstock.recipes.checks.paths import positions
from penstock.recipes.needs import Needs
from penstock.recipes.recipe import Recipe

AUTO = "auto"
SMALL = 1024
"""On CPUs larger micro-batches are no faster (docs/benchmarks.md)."""
ROWS = 8192
"""Rows of a data set may be as long as this, where the model reads so much."""
MOST = 2**16


def asks(raw: dict[str, Any]) -> bool:
    """Whether the recipe leaves the size of a micro-batch to us."""
    learner = raw.get("learner")
    return isinstance(learner, dict) and learner.get("micro_batch_tokens") == AUTO


def without(raw: dict[str, Any]) -> dict[str, Any]:
    """The same with the default in its place."""
    return {**raw, "learner": {k: v for k, v in raw["learner"].items() if k != "micro_batch_tokens"}}


def fitted(recipe: Recipe) -> Recipe:
    """The recipe with the size that fits; the least that there may be where none does: the check of memory then says
    what to change."""
    device, tokens = recipe.learner.device_gib, _least(recipe)
    if device is None:
        return _with(recipe, max(SMALL, tokens))
    while 2 * tokens <= MOST and _fits(_with(recipe, 2 * tokens), device):
        tokens *= 2
    return _with(recipe, tokens)


def _least(recipe: Recipe) -> int:
    """The first power of two that holds the longest sample."""
    longest = recipe.generation.max_context
    if not recipe.rolls_out:
        longest = min(positions(recipe.model.path) or ROWS, ROWS)
    return 1 << max(0, longest - 1).bit_length()


def _fits(recipe: Recipe, device: float) -> bool:
    needs = Needs.of(recipe)
    return needs is not None and needs.stages[needs.worst].total <= 0.9 * device * GIB


def _with(recipe: Recipe, tokens: int) -> Recipe:
    return recipe.model_copy(update={"learner": recipe.learner.model_copy(update={"micro_batch_tokens": tokens})})
