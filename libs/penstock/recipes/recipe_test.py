"""The whole recipe: its defaults, its sources, and what follows from it."""

import pathlib
from typing import Any

import pytest

from penstock.recipes import resolve
from penstock.recipes.refusals_testing import problems


def test_defaults_are_those_of_a_stale_corrected_run(raw: dict[str, Any]) -> None:
    recipe = resolve(raw)
    assert recipe.staleness.max_versions == 2
    assert recipe.algorithm.loss.correction == "tis"
    assert recipe.groups_budget == 96
    assert recipe.rewards()[0].name == "sort_characters"


def test_a_source_has_its_own_settings_and_the_recipes_others(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    data = {"train": str(tmp_path / "train.jsonl")}
    game = {"name": "g", "data": data, "environment": {"name": "game", "multi_turn": True}, "group_size": 4}
    recipe = resolve({**raw, "mixture": [{**game, "filters": {"zero_variance": True}, "max_tokens": 7}]})
    assert list(recipe.sources) == ["sort_characters", "g"]
    own, other = recipe.sources.values()
    assert own.algorithm == recipe.algorithm and own.environment == recipe.environment
    assert (other.algorithm.group_size, other.sampling.max_tokens) == (4, 7) and other.algorithm.filters.zero_variance
    assert other.algorithm.loss == recipe.algorithm.loss
    assert other.environment is not None and other.environment.name == "game"
    assert not recipe.only_foreign_environments


def test_a_preference_run_from_a_data_set_needs_no_environment(raw: dict[str, Any]) -> None:
    del raw["environment"]
    offline = resolve(raw, ["algorithm.name=dpo", "algorithm.preference.source=dataset", "algorithm.group_size=2"])
    assert not offline.rolls_out and not offline.generates
    assert "environment: is required for algorithm.name dpo" in problems(raw, "algorithm.name=dpo")


@pytest.mark.parametrize(("every", "steps"), [(0, [0, 10]), (4, [0, 4, 8, 10]), (5, [0, 5, 10]), (20, [0, 10])])
def test_the_first_and_the_last_version_are_always_evaluated(
    every: int, steps: list[int], raw: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    overrides = ["algorithm.steps=10", f"data.eval={tmp_path / 'train.jsonl'}", f"evaluation.every={every}"]
    recipe = resolve(raw, overrides)
    assert recipe.evaluation_steps == steps and recipe.evaluates and not recipe.validates


def test_rows_are_measured_by_the_learner_where_nobody_plays_them(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    held_out = f"data.eval={tmp_path / 'train.jsonl'}"
    assert "evaluation.target_loss: is for sft, dpo and reward_model" in problems(
        raw, held_out, "evaluation.target_loss=1.0"
    )
    raw.pop("environment")
    recipe = resolve(raw, ["algorithm.name=sft", held_out, "evaluation.target_loss=1.0"])
    assert recipe.validates and not recipe.evaluates and recipe.evaluation_steps == [0, 3]
    assert resolve(raw, ["algorithm.name=sft"]).evaluation_steps == []
    assert "evaluation.target_reward: nothing is played here" in problems(
        raw, "algorithm.name=sft", held_out, "evaluation.target_reward=1.0"
    )


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ([], 0.0),
        (["environment.rewards=[{name: format}, {name: theirs, address: 'h:1'}]"], 60.0),
        (["environment={name: theirs, multi_turn: true, address: 'h:1'}"], 60.0),
    ],
)
def test_only_a_run_with_a_foreign_service_waits_for_outages(
    raw: dict[str, Any], changes: list[str], seconds: float
) -> None:
    assert resolve(raw, ["limits.outage_seconds=60", *changes]).outage_seconds == seconds
