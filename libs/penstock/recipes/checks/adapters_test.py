"""Environments of other libraries in a recipe: who plays them how, and which rows they make."""

from typing import Any

import pytest

from penstock.packages.adapters import misspelt
from penstock.recipes import Recipe
from penstock.recipes.checks.adapters import check_adapters
from penstock.recipes.checks.packages import check_packages

SUMS = "reasoning_gym:chain_sum"


def recipe(environment: dict[str, Any], **more: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "run": "r",
            "model": {"path": "m"},
            "data": {"train": "rows.jsonl"},
            "environment": environment,
            "algorithm": {"name": "grpo", "steps": 1, "groups_per_step": 1, "group_size": 2},
            "telemetry": {"tensorboard": False},
            **more,
        }
    )


@pytest.mark.parametrize(
    ("environment", "data", "words"),
    [
        ({"name": SUMS}, {}, f"environment.multi_turn: '{SUMS}' is played so; set it to true"),
        ({"name": "verifiers:x", "multi_turn": True}, {}, "environment.agent: 'verifiers:x' is played so"),
        ({"name": "math", "settings": {"a": 1}}, {}, "environment.settings: are for environments of other libraries"),
        (
            {"name": SUMS, "multi_turn": True},
            {"eval": "gymnasium:x"},
            "data.eval: 'gymnasium:x' makes tasks of its own",
        ),
        ({"name": "nemo_gym:u", "agent": True}, {"train": "nemo_gym:u"}, "data.train: nemo_gym has no tasks by number"),
    ],
)
def test_what_could_not_be_meant_is_said(environment: dict[str, Any], data: dict[str, str], words: str) -> None:
    found = check_adapters(recipe(environment, data={"train": "rows.jsonl", **data}))
    assert len(found) == 1 and found[0].startswith(words), found


def test_a_library_that_is_not_there_is_said_with_the_nearest() -> None:
    (found,) = check_packages(recipe({"name": "reasoning_gim:chain_sum", "multi_turn": True}))
    assert found == "environment.name: no adapter 'reasoning_gim' (did you mean reasoning_gym?)"
    assert misspelt("sorting") is None and misspelt(SUMS) is None
    assert misspelt("verifiers:") == "'verifiers:' names no environment package behind the colon"
