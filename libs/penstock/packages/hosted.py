"""Which rewards, environments and agents our environment service hosts: the built-in ones and those that packages
announce; and the trackers that packages bring.

In a library, because whoever starts a run asks before the service is there.

A package announces its own in `pyproject.toml`, and it is served without a change here:

    [project.entry-points."penstock.rewards"]
    brevity = "my_package.rewards:brevity"
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from importlib import metadata

REWARD_GROUP = "penstock.rewards"
ENVIRONMENT_GROUP = "penstock.environments"
AGENT_GROUP = "penstock.agents"
TRACKER_GROUP = "penstock.trackers"
_BUILT_IN = "services.environment.builtin"
_REWARDS = {
    "sort_characters": f"{_BUILT_IN}.sort_characters:sort_characters",
    "arithmetic": f"{_BUILT_IN}.arithmetic:arithmetic",
    "math": f"{_BUILT_IN}.mathematics:mathematics",
    "format": f"{_BUILT_IN}.format:matches_format",
    "regex": f"{_BUILT_IN}.format:matches_regex",
    "gsm8k": f"{_BUILT_IN}.short_answers:gsm8k",
    "choice": f"{_BUILT_IN}.short_answers:choice",
    "exact": f"{_BUILT_IN}.short_answers:exact",
    "length": f"{_BUILT_IN}.length:length",
    "ifeval": f"{_BUILT_IN}.ifeval:ifeval",
    "json_schema": f"{_BUILT_IN}.json_schema:json_schema",
    "python_tests": f"{_BUILT_IN}.python_tests:python_tests",
}
_ENVIRONMENTS = {
    "treasure_hunt": f"{_BUILT_IN}.treasure_hunt:TreasureHunt",
    "guess_number": f"{_BUILT_IN}.guess_number:GuessNumber",
    "python_code": f"{_BUILT_IN}.python_code:PythonCode",
    "calculator": f"{_BUILT_IN}.calculator:Calculator",
}
_AGENTS = {
    "calculator_agent": f"{_BUILT_IN}.calculator_agent:calculator_agent",
    "sorting_agent": f"{_BUILT_IN}.sorting_agent:sorting_agent",
}


def rewards(beside: Iterable[pathlib.Path] = ()) -> dict[str, str]:
    """Name -> `module:object` of every reward that packages here announce, and those in the folders `beside`.

    Raises:
        ValueError: two have one name.
    """
    return _merged(_REWARDS, REWARD_GROUP, beside)


def environments(beside: Iterable[pathlib.Path] = ()) -> dict[str, str]:
    """Name -> `module:class` of every environment; as `rewards`."""
    return _merged(_ENVIRONMENTS, ENVIRONMENT_GROUP, beside)


def agents(beside: Iterable[pathlib.Path] = ()) -> dict[str, str]:
    """Name -> `module:agent` of every agent; as `rewards`."""
    return _merged(_AGENTS, AGENT_GROUP, beside)


def trackers(beside: Iterable[pathlib.Path] = ()) -> dict[str, str]:
    """Name -> `module:function` of every tracker that packages announce; as `rewards`."""
    return _merged({}, TRACKER_GROUP, beside)


def _merged(built_in: dict[str, str], group: str, beside: Iterable[pathlib.Path]) -> dict[str, str]:
    merged = dict(built_in)
    others = (point for d in metadata.distributions(path=[str(each) for each in beside]) for point in d.entry_points)
    for found in (*metadata.entry_points(group=group), *(point for point in others if point.group == group)):
        if merged.get(found.name, found.value) != found.value:
            raise ValueError(f"{group}: {found.name!r} is both {merged[found.name]} and {found.value}")
        merged[found.name] = found.value
    return merged
