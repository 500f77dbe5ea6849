"""Recipes whose runs have other services than a plain one, of which nothing on this machine is asked."""

from typing import Any

from penstock.recipes import Recipe

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "judged": {
        "environment": {"name": "length", "rewards": ({"name": "length"}, {"name": "j", "judge": {"path": "m"}})}
    },
    "agents": {"environment": {"name": "sorting_agent", "agent": True, "max_turns": 2}},
    "many": {
        "generation": {"replicas": 4, "tensor": 2},
        "learner": {"ranks": 8, "nodes": 2},
        "rollout": {"workers": 3},
    },
    "teacher": {"teacher": {"path": "m"}},
    "cluster": {"limits": {"replicas": 3}},
    "demonstrations": {"algorithm": {"name": "sft", "steps": 2}, "environment": None},
}


def recipe(changes: dict[str, Any]) -> Recipe:
    """One that nothing of this machine is asked about."""
    said = {
        "run": "r",
        "model": {"path": "m"},
        "data": {"train": "rows.jsonl"},
        "environment": {"name": "length"},
        "algorithm": {"steps": 2, "groups_per_step": 2, "group_size": 2},
    }
    return Recipe.model_validate({**said, **changes})
