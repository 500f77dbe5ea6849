"""Which processes play the environments of other libraries, and what they are told."""

import pathlib
from typing import Any

from penstock.recipes import Recipe
from penstock.supervisor.plan import instances, plan, served

SUMS = "reasoning_gym:chain_sum"


def recipe(environment: dict[str, Any]) -> Recipe:
    more = {"model": {"path": "m"}, "data": {"train": "t"}, "algorithm": {"steps": 1}}
    return Recipe.model_validate({"run": "r", "environment": environment, **more})


def test_a_recipe_that_names_a_library_starts_its_adapters_and_no_other_environment() -> None:
    given = recipe({"name": SUMS, "multi_turn": True, "settings": {"max_terms": 2}, "replicas": 2, "workers": 3})
    names = [name for name in instances(given) if name.startswith(("environment", "adapters"))]
    assert names == ["adapters-0", "adapters-1"]
    (service,) = plan(given, pathlib.Path("f"), "nats://h:1", {"adapters-0": "127.0.0.1:1"})
    words = list(service.command)
    assert words[words.index("--serve") + 1] == '{"name": "reasoning_gym:chain_sum", "settings": {"max_terms": 2}}'
    assert words[words.index("--workers") + 1] == "3"


def test_adapters_hear_which_tasks_are_measured_with() -> None:
    given = recipe({"name": SUMS, "multi_turn": True}).model_dump()
    measured = Recipe.model_validate({**given, "data": {"train": SUMS, "eval": SUMS, "limit": 8}})
    assert list(served(measured)) == [
        "--serve",
        '{"name": "reasoning_gym:chain_sum", "settings": {}, "measured": true}',
    ]


def test_a_recipe_of_others_starts_none_and_a_foreign_service_of_that_name_is_its_own() -> None:
    assert not any(name.startswith("adapters") for name in instances(recipe({"name": "sort_characters"})))
    foreign = recipe({"name": SUMS, "multi_turn": True, "address": "h:1"})
    assert foreign.adapted == [] and not any(name.startswith("adapters") for name in instances(foreign))
