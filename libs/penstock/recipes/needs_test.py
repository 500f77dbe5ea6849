"""A recipe that its device cannot hold is refused with a way out, and so are sizes that do not divide the model."""

import pathlib
from typing import Any

import pytest

import penstock.memory_plan
from penstock.memory_plan import GIB
from penstock.recipes import Recipe, RecipeError, resolve
from penstock.recipes.needs import Needs

MODELS = pathlib.Path(penstock.memory_plan.__file__).parent / "testdata"


def recipe(tmp_path: pathlib.Path, model: str, *overrides: str) -> Recipe:
    (tmp_path / "train.jsonl").write_text("{}\n")
    raw: dict[str, Any] = {
        "run": "r",
        "model": {"path": str(MODELS / model), "dtype": "bfloat16"},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 1},
    }
    return resolve(raw, overrides)


def test_a_recipe_that_cannot_fit_is_refused_with_a_change_that_does(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RecipeError) as refused:
        recipe(tmp_path, "qwen3-8b", "learner.device_gib=80")
    (problem,) = refused.value.problems
    assert problem.startswith("learner.device_gib: a rank of pipeline stage 0 needs ") and " of 80; set " in problem
    overrides = problem.partition("; set ")[2].replace(" and ", ", ").split(", ")
    fits = recipe(tmp_path, "qwen3-8b", "learner.device_gib=80", *overrides)
    needs = Needs.of(fits)
    assert needs is not None and needs.stages[needs.worst].total <= 80 * GIB


def test_a_device_that_is_large_enough_is_not_refused(tmp_path: pathlib.Path) -> None:
    assert recipe(tmp_path, "qwen3-0.6b", "learner.device_gib=80")


def test_sizes_that_do_not_divide_the_model_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RecipeError, match="pipeline: 5 does not divide the model's num_hidden_layers, 28"):
        recipe(tmp_path, "qwen3-0.6b", "learner.ranks=5", "learner.parallel.pipeline=5")
    with pytest.raises(RecipeError, match="virtual_stages: 3 chunks on each of 2 stages do not divide"):
        recipe(
            tmp_path,
            "qwen3-0.6b",
            "learner.ranks=2",
            "learner.parallel.pipeline=2",
            "learner.parallel.virtual_stages=3",
        )
    with pytest.raises(RecipeError, match="virtual_stages: needs learner.parallel.pipeline > 1"):
        recipe(tmp_path, "qwen3-0.6b", "learner.parallel.virtual_stages=2")
    ulysses = "learner.parallel.context_attention=ulysses"
    with pytest.raises(RecipeError, match="ulysses needs learner.parallel.context > 1"):
        recipe(tmp_path, "qwen3-0.6b", ulysses)
    with pytest.raises(RecipeError, match="context: 6 ranks cannot share out the 16 heads .* valid value is 4, or use"):
        recipe(tmp_path, "qwen3-0.6b", "learner.ranks=6", "learner.parallel.context=6", ulysses)
    assert recipe(tmp_path, "qwen3-0.6b", "learner.ranks=4", "learner.parallel.context=4", ulysses)
    with pytest.raises(RecipeError, match="tensor: 3 does not divide the model's num_attention_heads, 16"):
        recipe(tmp_path, "qwen3-0.6b", "learner.ranks=3", "learner.parallel.tensor=3")


def test_what_a_host_needs_counts_learner_engines_and_judges(tmp_path: pathlib.Path) -> None:
    here = recipe(tmp_path, "qwen3-0.6b", "generation.replicas=2", "generation.memory_gib=2")
    needs = Needs.of(here)
    assert needs is not None
    held = Needs.of_host(here)
    assert held["learner"] == needs.stages[0].total + needs.published
    assert (needs.published, needs.stored) == (2 * needs.version, 6 * needs.version * 14 // 10)
    whole = Needs.of(recipe(tmp_path, "qwen3-0.6b", "weight_sync.full_every=1", "weight_sync.dtype=float32"))
    assert whole is not None and whole.published == whole.stored // 6 == needs.shapes.parameters * 4
    assert held["generation"] == 2 * (needs.version + 2 * GIB)
    judged = f"environment.rewards=[{{name: a, judge: {{path: {MODELS / 'qwen3-0.6b'}, dtype: bfloat16}}}}]"
    assert Needs.of_host(recipe(tmp_path, "qwen3-0.6b", judged))["judge"] == needs.version + GIB
    assert Needs.of_host(recipe(tmp_path, "qwen3-0.6b", "learner.device_gib=80")) == {}


def test_a_model_that_drafts_stands_beside_the_policy_in_each_engine(tmp_path: pathlib.Path) -> None:
    plain = recipe(tmp_path, "qwen3-0.6b", "generation.replicas=2")
    asked = f"generation.speculative={{method: draft_model, model: {MODELS / 'qwen3-0.6b'}}}"
    drafted = recipe(tmp_path, "qwen3-0.6b", "generation.replicas=2", asked)
    needs = Needs.of(plain)
    assert needs is not None and Needs.of_drafts(drafted) == needs.version and Needs.of_drafts(plain) == 0
    assert Needs.of_host(drafted)["generation"] - Needs.of_host(plain)["generation"] == 2 * needs.version
