"""An unknown key is answered with the one that was meant, wherever in the recipe that is."""

import pytest

from penstock.recipes import RecipeError, resolve
from penstock.recipes.hints import ELSEWHERE, keys


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("algorithm.lr=1", "learner.optimizer.learning_rate"),
        ("learning_rate=1", "learner.optimizer.learning_rate"),
        ("learner.group_size=8", "algorithm.group_size"),
        ("algorithm.num_generations=8", "algorithm.group_size"),
        ("learner.optimizer.lerning_rate=1", "learner.optimizer.learning_rate"),
        ("learner.lerning_rate=1", "learner.optimizer.learning_rate"),
        ("lerner.ranks=2", "learner"),
        ("sampling.max_new_tokens=8", "sampling.max_tokens"),
        ("generation.temperature=1", "sampling.temperature"),
        ("max_steps=8", "algorithm.steps"),
    ],
)
def test_the_key_that_was_meant_is_named(override: str, meant: str) -> None:
    key = override.partition("=")[0].split(".")[0 if override.startswith("lerner") else slice(None)]
    path = key if isinstance(key, str) else ".".join(key)
    with pytest.raises(RecipeError) as error:
        resolve({}, [override])
    assert f"{path}: unknown key; did you mean {meant}?" in str(error.value)


def test_every_hint_is_a_key() -> None:
    assert set(ELSEWHERE.values()) <= set(keys())
