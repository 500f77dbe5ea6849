"""The recipe: one YAML file that says everything about a run."""

from penstock.recipes.lengths import Longest, TooLong
from penstock.recipes.loading import RecipeError, dump, load, resolve
from penstock.recipes.recipe import Recipe

__all__ = ["Longest", "Recipe", "RecipeError", "TooLong", "dump", "load", "resolve"]
