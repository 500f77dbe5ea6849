"""The recipe: one YAML file that says everything about a run."""

from penstock.recipes.checks import check_recipe
from penstock.recipes.loading import RecipeError, dump, load, resolve
from penstock.recipes.recipe import Recipe

__all__ = ["Recipe", "RecipeError", "check_recipe", "dump", "load", "resolve"]
