"""Keys that a recipe says and that nothing reads: a recipe means what it says."""

from penstock.recipes.recipe import Recipe
from penstock.recipes.said import said
from penstock.recipes.uses import COVERED, USES, divergence, listed


def check_unread(recipe: Recipe) -> list[str]:
    """A sentence for every key without effect under the recipe's choices, with those that have one."""
    return [
        f"{key}: {USES[key].otherwise(recipe) or _usual(recipe, key)}"
        for path in COVERED
        for key, _ in said(recipe, path)
        if not USES[key].reads(recipe)
    ]


def _usual(recipe: Recipe, key: str) -> str:
    section = key.rpartition(".")[0]
    uses = [k.rpartition(".")[2] for k, use in USES.items() if k.rpartition(".")[0] == section and use.reads(recipe)]
    return f"{_who(recipe)} does not use it; it uses {listed(uses)} of {section}"


def _who(recipe: Recipe) -> str:
    a = recipe.algorithm
    if a.name != "grpo":
        return f"algorithm.name {a.name}"
    return f"algorithm.advantage {a.advantage}" + (" with teacher.top" if divergence(recipe) else "")
