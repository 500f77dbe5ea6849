"""A file that is no recipe is refused with the key's path and the nearest valid name."""

import pathlib
from typing import Any

import pytest
import yaml

from penstock.recipes import RecipeError, dump, load, resolve
from penstock.recipes.refusals_testing import problems


def test_unknown_key_names_its_path_and_the_nearest(raw: dict[str, Any]) -> None:
    assert "algorithm.loss.clip_hi: unknown key; did you mean algorithm.loss.clip_high?" in problems(
        raw, "algorithm.loss.clip_hi=0.3"
    )
    assert "lerner: unknown key; did you mean learner?" in problems(raw, "lerner.ranks=2")


def test_wrong_types_and_ranges_are_named(raw: dict[str, Any]) -> None:
    text = problems(raw, "algorithm.steps=many", "sampling.top_p=1.5")
    assert "algorithm.steps" in text and "'many'" in text
    assert "sampling.top_p" in text and "1.5" in text


def test_choices_are_listed(raw: dict[str, Any]) -> None:
    assert "did you mean 'token'" in problems(raw, "algorithm.loss.normalisation=tokens")
    assert "ppo_clip, cispo" in problems(raw, "algorithm.loss.name=ppo")


def test_a_dumped_recipe_is_the_same_recipe(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    recipe = resolve(raw, ["environment.rewards=[{name: a, weight: 0.5}]"])
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    assert load(tmp_path / "recipe.yaml") == recipe


def test_a_recipe_can_begin_with_another(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """Mappings are merged, lists and values replaced, over any number of files; overrides come last."""
    raw["environment"] = {"name": "sort_characters", "rewards": [{"name": "a"}, {"name": "b"}]}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "second.yaml").write_text("base: first.yaml\nalgorithm: {loss: {name: cispo, cap: 4.0}}\n")
    (tmp_path / "below").mkdir()
    third = tmp_path / "below" / "third.yaml"
    third.write_text("base: ../second.yaml\nalgorithm: {loss: {cap: 3.0}}\nenvironment: {rewards: [{name: c}]}\n")
    recipe = load(third, ["run=mine"])
    assert (recipe.algorithm.loss.name, recipe.algorithm.loss.cap, recipe.algorithm.steps) == ("cispo", 3.0, 3)
    assert [r.name for r in recipe.rewards()] == ["c"] and recipe.run == "mine"
    assert recipe.environment is not None and recipe.environment.name == "sort_characters"


def test_a_base_that_cannot_be_used_is_named(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    (tmp_path / "first.yaml").write_text("base: second.yaml\n")
    (tmp_path / "second.yaml").write_text("base: first.yaml\n")
    with pytest.raises(RecipeError, match="base: 'first.yaml' leads back to itself"):
        load(tmp_path / "first.yaml")
    (tmp_path / "third.yaml").write_text("base: fist.yaml\n")
    with pytest.raises(RecipeError, match="no file .*; did you mean 'first.yaml'"):
        load(tmp_path / "third.yaml")
    (tmp_path / "fourth.yaml").write_text("base: [a]\n")
    with pytest.raises(RecipeError, match="must be the name of a recipe file"):
        load(tmp_path / "fourth.yaml")


def test_unreadable_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match="is not YAML"):
        load(tmp_path / "bad.yaml")


@pytest.mark.parametrize(("text", "value"), [("2e-4", 2e-4), ("1E5", 1e5), (".5e1", 5.0), ("3.0e-4", 3e-4), ("7", 7.0)])
def test_numbers_are_read_as_people_write_them(raw: dict[str, Any], text: str, value: float) -> None:
    assert resolve(raw, [f"learner.optimizer.learning_rate={text}"]).learner.optimizer.learning_rate == value
