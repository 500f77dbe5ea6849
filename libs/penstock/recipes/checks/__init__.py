"""Contradictions between a recipe's sections, each as one sentence that names the keys and the nearest way out."""

from penstock.recipes.checks.adapters import check_adapters
from penstock.recipes.checks.agents import check_agents
from penstock.recipes.checks.algorithm import check_algorithm
from penstock.recipes.checks.canary import check_canary
from penstock.recipes.checks.checkpoints import check_checkpoints
from penstock.recipes.checks.data import check_data
from penstock.recipes.checks.drafts import check_drafts
from penstock.recipes.checks.generation import check_generation
from penstock.recipes.checks.layout import check_layout
from penstock.recipes.checks.mixture import check_mixture
from penstock.recipes.checks.security import security_problems
from penstock.recipes.checks.telemetry import check_telemetry
from penstock.recipes.checks.unread import check_unread
from penstock.recipes.recipe import Recipe

__all__ = ["check_recipe"]


def check_recipe(recipe: Recipe, *, rows: bool = True) -> list[str]:
    """Everything that contradicts itself; empty if the recipe can be run. rows: whether data files must be here."""
    problems = [*check_telemetry(recipe), *check_checkpoints(recipe), *check_layout(recipe), *check_mixture(recipe)]
    problems += [*check_canary(recipe), *(check_drafts(recipe) if rows else ()), *security_problems(recipe)]
    own, *others = (_of_source(r, rows) for r in recipe.sources.values())
    further = [f"mixture.{i}: {problem}" for i, found in enumerate(others) for problem in found if problem not in own]
    return [*problems, *own, *further]


def _of_source(recipe: Recipe, rows: bool) -> list[str]:
    found = check_data(recipe, rows=rows)
    playing = [*check_agents(recipe), *check_adapters(recipe)]
    return [*check_unread(recipe), *check_algorithm(recipe), *playing, *found, *check_generation(recipe)]
