"""The recipe: one YAML file that says everything about a run."""

from penstock.recipes.loading import RecipeError, dump, load, resolve
from penstock.recipes.recipe import Recipe
from penstock.recipes.said import as_said

__all__ = ["Recipe", "RecipeError", "as_said", "dump", "load", "resolve"]
