"""What the processes of a host are told."""

import pathlib

import pytest

from penstock.recipes import Recipe
from penstock.supervisor.plan import Joins, plan

RECIPE = Recipe.model_validate(
    {
        "run": "r",
        "model": {"path": "m"},
        "data": {"train": "t"},
        "environment": {"name": "sorting_agent", "agent": True, "max_turns": 2},
        "algorithm": {"steps": 1},
    }
)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_agents_find_a_gateway_where_others_find_it(host: str) -> None:
    """On a host that joins it listens for others, and so must the side that agents call."""
    joins = Joins() if host != "127.0.0.1" else None
    (service,) = plan(RECIPE, pathlib.Path("f"), "nats://10.0.0.1:4222", {"gateway-0": f"{host}:0"}, joins)
    words = list(service.command)
    assert words[words.index("--http") + 1] == f"{host}:0" == words[words.index("--listen") + 1]
