"""`micro_batch_tokens: auto` is a number in the resolved recipe: one that fits, and never below the longest sample."""

import pathlib
from typing import Any

import pytest

import penstock.memory_plan
from penstock.memory_plan import GIB
from penstock.recipes import Recipe, RecipeError, dump, load, resolve
from penstock.recipes.needs import Needs

MODELS = pathlib.Path(penstock.memory_plan.__file__).parent / "testdata"


SHORT = ("generation.max_context=512",)


def recipe(tmp_path: pathlib.Path, *overrides: str, name: str = "grpo") -> Recipe:
    (tmp_path / "train.jsonl").write_text('{"prompt": "a"}\n')
    raw: dict[str, Any] = {
        "run": "r",
        "model": {"path": str(MODELS / "qwen3-0.6b"), "dtype": "bfloat16"},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "algorithm": {"steps": 1, "name": name},
        "learner": {"micro_batch_tokens": "auto"},
    }
    if name == "grpo":
        raw["environment"] = {"name": "sort_characters"}
    return resolve(raw, overrides)


def test_on_cpus_micro_batches_are_small_but_hold_a_sample(tmp_path: pathlib.Path) -> None:
    assert recipe(tmp_path, *SHORT).learner.micro_batch_tokens == 1024
    assert recipe(tmp_path).learner.micro_batch_tokens == 2048
    assert recipe(tmp_path, "generation.max_context=3000").learner.micro_batch_tokens == 4096
    assert recipe(tmp_path, name="sft").learner.micro_batch_tokens == 8192


def test_on_a_device_they_are_as_large_as_fits(tmp_path: pathlib.Path) -> None:
    sizes = list[int]()
    for device in (24, 40, 80, 4000):
        resolved = recipe(tmp_path, f"learner.device_gib={device}")
        needs, sizes = Needs.of(resolved), [*sizes, resolved.learner.micro_batch_tokens]
        assert needs is not None and needs.stages[needs.worst].total <= 0.9 * device * GIB
    assert sizes == sorted(sizes) and len(set(sizes)) == 4 and sizes[-1] == 65536


def test_a_device_that_holds_no_sample_is_refused_as_ever(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RecipeError, match="learner.device_gib: a rank of pipeline stage 0 needs"):
        recipe(tmp_path, "learner.device_gib=4")


def test_the_resolved_recipe_has_the_number(tmp_path: pathlib.Path) -> None:
    resolved = recipe(tmp_path)
    (tmp_path / "recipe.yaml").write_text(dump(resolved))
    assert "micro_batch_tokens: 2048" in dump(resolved)
    assert load(tmp_path / "recipe.yaml") == resolved
