"""Rows that are numbers alone, of an environment that makes its tasks itself."""

import json

from penstock.datasets import held_out_rows, training_rows
from penstock.recipes import Recipe

NAME = "reasoning_gym:chain_sum"
RECIPE = {
    "run": "r",
    "model": {"path": "m"},
    "environment": {"name": NAME, "multi_turn": True},
    "algorithm": {"name": "grpo", "steps": 1, "groups_per_step": 1, "group_size": 2},
}


def test_tasks_by_number_need_no_file_and_held_out_ones_say_so() -> None:
    data = {"train": NAME, "eval": NAME, "limit": 5}
    given = Recipe.model_validate({**RECIPE, "data": data, "evaluation": {"tasks": 3}})
    trained, held_out = training_rows(given), held_out_rows(given)
    assert held_out is not None
    assert trained.rows == [{"index": n} for n in range(5)]
    assert held_out.rows == [{"index": n, "held_out": True} for n in range(3)]
    task = trained.task(3, NAME)
    assert json.loads(task.row_json) == {"index": 3} and not task.messages


def test_there_are_ten_thousand_where_the_recipe_says_no_number() -> None:
    assert len(training_rows(Recipe.model_validate({**RECIPE, "data": {"train": NAME}}))) == 10_000
