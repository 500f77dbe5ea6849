"""Files and directories that are not there, or are of another kind."""

import glob
import os

from penstock.packages.adapters import adapter_of
from penstock.recipes.checks.paths import model_problems, vocabulary
from penstock.recipes.checks.rewards import reward_problems
from penstock.recipes.recipe import Recipe


def check_data(recipe: Recipe, *, rows: bool = True) -> list[str]:
    """Paths that lead nowhere, and a teacher with another vocabulary. rows: whether data files are looked for."""
    problems = [f"plugins: no file {p!r}" for p in recipe.plugins if p.endswith(".py") and not os.path.isfile(p)]
    for key, path in (("data.train", recipe.data.train), ("data.eval", recipe.data.eval)):
        if rows and path is not None and adapter_of(path) is None and not os.path.exists(path) and not glob.glob(path):
            problems.append(f"{key}: no file {path!r}")
    if recipe.data.bad_rows == "skip" and recipe.data.check != "all":
        problems.append(
            f"data.check: {recipe.data.check} with data.bad_rows=skip; rows left out are found by trying all"
        )
    problems += model_problems("model.path", recipe.model.path)
    problems += reward_problems(recipe)
    if recipe.teacher is not None:
        problems += model_problems("teacher.path", recipe.teacher.path)
        own, other = vocabulary(recipe.model.path), vocabulary(recipe.teacher.path)
        if own != other:
            problems.append(f"teacher.path: its vocabulary has {other} tokens, that of model.path {own}")
    return problems
