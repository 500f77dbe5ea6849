"""A recipe's data sets with every row tried: what a run reads cannot stop it once it has started."""

import pathlib

from penstock.datasets.dataset import Dataset
from penstock.datasets.reading import DatasetError
from penstock.recipes import Recipe


def training_rows(recipe: Recipe) -> Dataset:
    """The rows of data.train. Raises DatasetError for one that the recipe cannot use, unless it is left out."""
    data = recipe.data
    rows = Dataset(pathlib.Path(data.train), data, shuffle=data.shuffle, prompts=_asks(recipe), limit=data.limit)
    rows.sift(lambda row: _use(recipe, rows, row, recipe.rolls_out))
    return rows


def held_out_rows(recipe: Recipe) -> Dataset | None:
    """The rows of data.eval in the file's order, likewise; None without one."""
    if recipe.data.eval is None:
        return None
    rows = Dataset(pathlib.Path(recipe.data.eval), recipe.data, shuffle=False, prompts=_asks(recipe))
    rows.sift(lambda row: _use(recipe, rows, row, not recipe.validates))
    return rows


def _asks(recipe: Recipe) -> bool:
    """Whether rows say what the model is asked: a multi-turn environment does that itself."""
    return recipe.environment is None or not recipe.environment.plays


def _use(recipe: Recipe, rows: Dataset, row: int, asked: bool) -> None:
    """Makes of a row what the recipe's method will. asked: whether the model answers it."""
    size = recipe.algorithm.group_size
    if asked:
        rows.task(row, "")
    elif recipe.algorithm.name == "sft":
        rows.demonstration(row)
    elif (answers := len(rows.preference(row).answers)) != size:
        raise DatasetError(f"{rows.at(row)}: has {answers} answers; algorithm.group_size is {size}")
