"""The recipe: one YAML file that says everything about a run."""

from penstock.recipes.differing import differing
from penstock.recipes.lengths import Longest, TooLong
from penstock.recipes.loading import RecipeError, dump, load, recorded, resolve
from penstock.recipes.recipe import Recipe
from penstock.recipes.said import as_said

__all__ = [
    "Longest",
    "Recipe",
    "RecipeError",
    "TooLong",
    "as_said",
    "differing",
    "dump",
    "load",
    "recorded",
    "resolve",
]
