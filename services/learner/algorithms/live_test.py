"""A sample is dead only where nothing can reach it: each term of a loss makes it live again."""

from typing import Any

import pytest
import torch

from penstock.objectives import LossInputs, policy_losses
from penstock.recipes.choices import LOSSES
from penstock.recipes.sections import Kl
from services.learner.algorithms import live
from services.learner.algorithms.table import ALGORITHMS, algorithm_of
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.testing.recipes import recipe_of


def batch() -> Batch:
    """Two groups of two: one of advantages that are not 0; one of zeros, of which the second trains nothing at all."""
    given = [(1.0, [0, 1, 1]), (0.0, [0, 1, 1]), (0.0, [0, 1, 0]), (0.5, [0, 0, 0])]
    samples = [TrainingSample([1, 2, 3], mask, [-1.0] * 3, a, i // 2) for i, (a, mask) in enumerate(given)]
    return Batch.from_samples(samples, "advantage")


def live_of(**of_recipe: Any) -> list[bool]:
    recipe = recipe_of(**of_recipe)
    return algorithm_of(recipe).live(recipe)(batch()).tolist()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_a_loss_vanishes_with_the_advantage_exactly_where_it_is_declared_to(name: str, seed: int) -> None:
    """Whatever the log-probs are; so a row that says too much fails, and one that says too little is found."""
    made = torch.Generator().manual_seed(seed)
    current = torch.randn(12, generator=made).requires_grad_()
    proximal, behaviour = (torch.randn(12, generator=made) for _ in range(2))
    inputs = LossInputs(current, proximal, behaviour, torch.zeros(12), torch.ones(12), torch.arange(12) // 4, 3)
    settings = {key: 0.5 for key in LOSSES[name].required}
    values, _ = policy_losses.make(name, **settings)(inputs)
    (gradient,) = torch.autograd.grad(values.sum(), current)
    assert LOSSES[name].by_advantage == bool((gradient == 0).all() and (values == 0).all())


def test_a_sample_without_advantage_is_dead() -> None:
    assert live_of() == [True, False, False, False]


@pytest.mark.parametrize(
    "of_recipe",
    [
        {"kl": 0.1},
        {"entropy_coefficient": 0.01},
        {"algorithm": {"router_coefficient": 0.01}},
        {"loss": "dppo"},
        {"loss": "dro", "beta": 0.5},
        {"loss": "a_plugin"},
        {"name": "sft"},
        {"name": "dpo"},
        {"name": "reward_model"},
    ],
    ids=str,
)
def test_any_other_term_makes_it_live(of_recipe: dict[str, Any]) -> None:
    assert live_of(**of_recipe) == [True] * 4


def test_a_pull_in_the_reward_is_in_the_advantage_by_then() -> None:
    assert live_of(kl=Kl(coefficient=0.1, place="reward")) == [True, False, False, False]


def test_an_algorithm_that_says_nothing_is_computed_in_full() -> None:
    assert {name for name, a in ALGORITHMS.items() if a.live is not live.all_of_them} == {
        "policy_gradient",
        "critic",
        "distillation",
    }


def test_what_is_said_of_the_dead() -> None:
    tokens, groups = live.said(batch(), torch.tensor([True, False, False, False]))
    assert (tokens, groups) == (6.0, 0.5)
