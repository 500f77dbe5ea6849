"""A recipe's data sets with every row tried: what a run reads cannot stop it once it has started."""

import pathlib

from penstock.datasets.dataset import Dataset
from penstock.datasets.reading import DatasetError, numbered
from penstock.packages.adapters import adapter_of
from penstock.recipes import Recipe

TASKS = 10_000
"""Of an environment that makes them by number, where `data.limit` says no other number."""


def training_rows(recipe: Recipe) -> Dataset:
    """The rows of data.train. Raises DatasetError for one that the recipe cannot use, unless it is left out."""
    data = recipe.data
    found = numbered(data.train, data.limit or TASKS, held_out=False) if adapter_of(data.train) else None
    path, asks = pathlib.Path(data.train), _asks(recipe)
    rows = Dataset(path, data, shuffle=data.shuffle, prompts=asks, limit=data.limit, found=found)
    rows.sift(lambda row: _use(recipe, rows, row, recipe.rolls_out))
    return rows


def held_out_rows(recipe: Recipe) -> Dataset | None:
    """The rows of data.eval in the file's order, likewise; None without one."""
    name = recipe.data.eval
    if name is None:
        return None
    found = numbered(name, recipe.evaluation.tasks, held_out=True) if adapter_of(name) else None
    rows = Dataset(pathlib.Path(name), recipe.data, shuffle=False, prompts=_asks(recipe), found=found)
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
