"""What a recipe says of an agent, and who is started for it."""

from typing import Any

import pytest
from pydantic import ValidationError

from penstock.recipes import RecipeError, resolve
from penstock.recipes.refusals_testing import problems

AGENT = "environment={name: sorting_agent, agent: true}"


def test_an_agent_needs_a_gateway_and_our_environment_service(raw: dict[str, Any]) -> None:
    recipe = resolve(raw, [AGENT])
    assert recipe.runs_agents and not recipe.only_foreign_environments
    assert (recipe.gateway.replicas, recipe.gateway.agent_sampling, recipe.rollout.max_branches) == (1, "refuse", 16)
    assert not resolve(raw).runs_agents
    elsewhere = resolve(raw, ["environment={name: theirs, agent: true, address: 'h:1'}"])
    assert elsewhere.runs_agents and elsewhere.only_foreign_environments


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ([f"{AGENT[:-1]}, rewards: [{{name: format}}]}}"], "an agent gives the reward itself"),
        ([f"{AGENT[:-1]}, multi_turn: true}}"], "leave multi_turn out"),
        ([AGENT, "algorithm.overlong_buffer=8"], "bounds one call of an agent"),
        ([AGENT, "algorithm.advantage=gdpo"], "earn a reward, which has no parts; use grpo"),
        ([AGENT, "algorithm.name=dpo", "algorithm.group_size=2"], "compares answers of one context each"),
    ],
)
def test_what_an_agent_cannot_have_is_refused_in_a_sentence(raw: dict[str, Any], changes: list[str], why: str) -> None:
    assert why in problems(raw, *changes)


@pytest.mark.parametrize("change", ["rollout.max_branches=0", "rollout.max_branches=257", "gateway.agent_sampling=all"])
def test_bounds_of_the_gateway_are_named(raw: dict[str, Any], change: str) -> None:
    with pytest.raises((RecipeError, ValidationError), match=change.partition("=")[0]):
        resolve(raw, [change])
