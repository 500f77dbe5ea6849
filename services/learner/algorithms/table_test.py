"""The table has a row for every method that a recipe can mean, and every recipe we ship is made of its two halves."""

import dataclasses
import pathlib
import re
from collections.abc import Callable
from typing import Any, cast

import pytest

from penstock.recipes import Recipe, load
from penstock.recipes.checks.algorithm import CHECKS
from penstock.recipes.methods import METHODS
from services.learner.algorithms.method import Trainer
from services.learner.algorithms.sources import Sources
from services.learner.algorithms.table import ALGORITHMS, algorithm_of, make_trainer
from services.learner.interface.batch import InvalidBatch, Signal
from services.learner.interface.policy import Policy
from services.learner.testing.tiny_models import random_batch

RECIPES = sorted(pathlib.Path("deploy/recipes").absolute().rglob("*.yaml"))
Read = Callable[[pathlib.Path], Recipe]


class NoPolicy:
    """Nothing may be asked of it: a batch of another kind is refused before any model sees it."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the policy was asked for {name}")


@pytest.fixture
def shipped(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[pathlib.Path], Recipe]:
    """Reads a recipe of deploy/ where the models and rows that it names exist, and are empty."""
    monkeypatch.chdir(tmp_path)

    def read(path: pathlib.Path) -> Recipe:
        text = "".join(p.read_text() for p in [path, *path.parent.parent.glob("*.yaml"), *path.parent.glob("*.yaml")])
        for folder in re.findall(r"path: ([\w./-]+)", text):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "config.json").write_text("{}")
        for file in re.findall(r"(?:train|eval): ([\w./-]+jsonl)", text):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text("{}\n")
        return load(path)

    return read


def test_there_are_recipes_to_try() -> None:
    assert len(RECIPES) > 30


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_of_deploy_makes_samples_that_its_own_trainer_takes(path: pathlib.Path, shipped: Read) -> None:
    recipe = shipped(path)
    algorithm, policy = algorithm_of(recipe), cast(Policy, NoPolicy())
    trainer = make_trainer(recipe, policy, policy if recipe.has_critic else None)
    assert Sources.of(recipe)._signal == algorithm.signal
    with pytest.raises(AssertionError, match="the policy was asked for"):
        trainer.step(random_batch(1, algorithm.signal))


@pytest.mark.parametrize("kind", ["none", "advantage", "reward", "role", "score"])
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_batch_made_for_one_trainer_is_refused_by_another(path: pathlib.Path, kind: Signal, shipped: Read) -> None:
    recipe = shipped(path)
    if kind == algorithm_of(recipe).signal:
        return
    policy = cast(Policy, NoPolicy())
    with pytest.raises(InvalidBatch, match=f"carry '{kind}'"):
        make_trainer(recipe, policy, policy if recipe.has_critic else None).step(random_batch(1, kind))


def test_the_two_tables_and_the_checks_have_the_same_rows() -> None:
    assert set(ALGORITHMS) == {m.name for m in METHODS} == set(CHECKS)


def test_a_new_algorithm_is_one_row(monkeypatch: pytest.MonkeyPatch, shipped: Read) -> None:
    """Nothing else lists algorithms: what a row says is what is trained."""
    (path,) = (p for p in RECIPES if p.stem == "quickstart-sft")
    recipe = shipped(path)
    own = cast(Trainer, object())
    mine = dataclasses.replace(ALGORITHMS["supervised"], signal="score", trainer=lambda *_: own)
    monkeypatch.setitem(ALGORITHMS, "supervised", mine)
    assert make_trainer(recipe, cast(Policy, NoPolicy())) is own
    assert Sources.of(recipe)._signal == "score"
