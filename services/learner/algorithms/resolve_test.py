"""Every choice that a recipe accepts makes a learner, and what it says arrives."""

import dataclasses
import pathlib
from typing import Any, get_args

import pytest
import torch

from penstock.objectives import (
    LossInputs,
    Registry,
    advantage_estimators,
    kl_estimators,
    normalisations,
    off_policy_corrections,
    policy_losses,
    preference_losses,
    rejection,
)
from penstock.objectives.corrections import WHOLE_BATCH
from penstock.objectives.preferences import Pairs, divergences
from penstock.objectives.registry import REQUIRED
from penstock.recipes import resolve
from penstock.recipes.choices import ADVANTAGES, CORRECTIONS, KL_ESTIMATORS, LOSSES, NORMALISATIONS, PREFERENCES
from penstock.recipes.sections import Rejection
from services.learner.algorithms import resolve as resolving
from services.learner.algorithms.policy_gradient.loss import Objectives
from services.learner.algorithms.policy_gradient.samples import AdvantageSamples
from services.learner.algorithms.sources import Sources


@pytest.fixture
def raw(tmp_path: pathlib.Path) -> dict[str, Any]:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "train.jsonl").write_text("{}\n")
    rewards = [{"name": "right", "weight": 1.0}, {"name": "short", "weight": 0.1}]
    return {
        "run": "r",
        "model": {"path": str(tmp_path)},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "environment": {"name": "e", "rewards": rewards},
        "algorithm": {"steps": 1},
    }


def built_in(registry: Registry[Any]) -> set[str]:
    """Names that are not a plugin's of another test."""
    return {n for n in registry.names() if registry.get(n).__module__.startswith("penstock.")}


def test_the_recipe_knows_exactly_what_is_registered() -> None:
    """The recipe library imports no torch, so it has its own lists; they must not go out of step."""
    assert set(LOSSES) == built_in(policy_losses)
    assert set(CORRECTIONS) == built_in(off_policy_corrections)
    assert set(ADVANTAGES) == built_in(advantage_estimators) | {"opd", "gae"}  # of a teacher, of a critic
    assert set(PREFERENCES) == built_in(preference_losses) | {"kto"}
    assert get_args(Rejection.model_fields["by"].annotation) == ("none", *rejection.REJECTIONS)
    assert built_in(kl_estimators) == set(KL_ESTIMATORS) and built_in(normalisations) == set(NORMALISATIONS)


TABLES: list[tuple[Any, Registry[Any]]] = [
    (LOSSES, policy_losses),
    (CORRECTIONS, off_policy_corrections),
    (ADVANTAGES, advantage_estimators),
    (PREFERENCES, preference_losses),
]


@pytest.mark.parametrize(("table", "registry"), TABLES)
def test_the_recipe_knows_the_parameters_of_each_and_their_defaults(table: Any, registry: Registry[Any]) -> None:
    for name in built_in(registry):
        own = {k: None if v is REQUIRED else v for k, v in registry.settings_of(name).items()}
        own.pop("weights", None)  # gdpo's: of the rewards
        assert table[name].parameters == own, name


def given_to(registry: Registry[Any]) -> tuple[Any, ...]:
    """What shows every parameter: tokens far and near of all policies, answers good and bad."""
    drawn = torch.Generator().manual_seed(1)

    def numbers(size: int, scale: float) -> torch.Tensor:
        return torch.randn(size, generator=drawn, dtype=torch.float64) * scale

    if registry is advantage_estimators:
        lengths = torch.tensor([1, 2, 3, 4])
        return torch.tensor([1.0, 0.0, 0.5, 0.0]), torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.bool), lengths
    if registry is preference_losses:
        one, two, three, four = (-2 + numbers(8, 0.5) for _ in range(4))
        return (Pairs(one, two, three, four, torch.full((8,), 2.0), torch.full((8,), 3.0)),)
    # Sequences of four tokens between which engine and learner differ by less than nothing to a factor of 20.
    sequence, behaviour = torch.arange(4000) // 4, -4 - numbers(4000, 0.5).abs()
    proximal = behaviour + torch.linspace(-3, 3, 4000) + numbers(4000, 0.3)
    current = proximal + numbers(4000, 1.5)
    return (LossInputs(current, proximal, behaviour, numbers(1000, 1)[sequence], torch.ones(4000), sequence, 1000),)


@pytest.mark.parametrize(("table", "registry"), TABLES)
def test_every_parameter_is_read(table: Any, registry: Registry[Any]) -> None:
    data = given_to(registry)
    for name in built_in(registry):
        if not table[name].parameters:
            continue
        more = {"weights": (1.0, 0.5)} if name == "gdpo" else {}
        given = (torch.stack([data[0], data[0].flip(0)], 1), *data[1:]) if name == "gdpo" else data
        given = given[:3] if registry is advantage_estimators and not table[name].by_length else given
        # What has no default, is off, or is needed to see another.
        shown = {"beta": 0.1, "dual_clip": 3.0, "normalise": 1.0, "floor": 0.5, "low": 0.5, "label_smoothing": 0.1}
        shown |= {"limit": 0.5, "raw": 1.0, "over_tokens": 1.0}
        usual = {k: v if v and k != "limit" else shown[k] for k, v in table[name].parameters.items()}
        before = registry.make(name, **more, **usual)(*given)
        for key, value in usual.items():
            other = 0.0 if key in ("normalise", "raw", "over_tokens", "baseline") else value * 1.3
            changed = registry.make(name, **more, **{**usual, key: other})(*given)
            first, second = (x[0] if isinstance(x, tuple) else x for x in (before, changed))
            assert not torch.equal(first, second), (name, key)


def test_the_recipe_knows_who_needs_what() -> None:
    for name, choice in LOSSES.items():
        assert set(choice.required) == {k for k, v in policy_losses.settings_of(name).items() if v is REQUIRED}, name
    assert {name for name, choice in CORRECTIONS.items() if choice.whole_batch} == set(WHOLE_BATCH)
    (given,) = given_to(off_policy_corrections)
    for name, each in CORRECTIONS.items():
        weight = off_policy_corrections.make(name)(given)
        moved = off_policy_corrections.make(name)(dataclasses.replace(given, current=given.current + 1))
        assert each.weighs != bool(((weight == 0) | (weight == 1)).all()), name
        assert each.current != torch.equal(weight, moved), name


def test_the_recipe_knows_which_preference_losses_look_at_the_reference() -> None:
    for name in built_in(preference_losses):
        numbers = [torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (-3.0, -4.0, -3.5, -3.75)]
        one, two, three, four = numbers
        loss = preference_losses.make(name)(Pairs(one, two, three, four, torch.tensor([2.0]), torch.tensor([3.0])))
        *_, chosen, rejected = torch.autograd.grad(loss.sum(), numbers, allow_unused=True)
        assert PREFERENCES[name].reference == (chosen is not None and rejected is not None), name


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_can_be_chosen(raw: dict[str, Any], loss: str) -> None:
    more = {
        "dppo": ["algorithm.loss.correction=none"],
        "dro": ["algorithm.loss.correction=none", "algorithm.loss.beta=0.1"],
    }
    recipe = resolve(raw, [f"algorithm.loss.name={loss}", *more.get(loss, [])])
    assert Objectives.of(recipe).loss.name == loss


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_every_correction_can_be_chosen(raw: dict[str, Any], correction: str) -> None:
    given = [f"algorithm.loss.correction={correction}", "staleness.allow_uncorrected=true"]
    Objectives.of(resolve(raw, given))
    values = {"low": 0.6, "high": 3.0, "limit": 0.1, "cap": 1.5}
    own = [f"algorithm.loss.correction_{k}={values[k]}" for k in CORRECTIONS[correction].parameters]
    Objectives.of(resolve(raw, [*given, *own]))


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_every_advantage_can_be_chosen(raw: dict[str, Any], advantage: str) -> None:
    teacher = [f"teacher={{path: {raw['model']['path']}}}"] if advantage == "opd" else []
    Sources.of(resolve(raw, [f"algorithm.advantage={advantage}", *teacher]))


@pytest.mark.parametrize("loss", PREFERENCES)
def test_every_preference_loss_can_be_chosen(raw: dict[str, Any], loss: str) -> None:
    recipe = resolve(raw, ["algorithm.name=dpo", f"algorithm.preference.loss={loss}"])
    assert recipe.method.name == "preference" and recipe.compares_with_reference == (loss not in ("simpo", "orpo"))
    if loss != "kto":
        resolving.preference_loss(recipe.algorithm.preference)


def test_several_preference_losses_are_added_up_by_their_weights(raw: dict[str, Any]) -> None:
    more = "algorithm.preference={loss: sigmoid, weight: 0.8, more: [{loss: bco, weight: 0.2}, {loss: simpo}]}"
    recipe = resolve(raw, ["algorithm.name=dpo", more])
    assert recipe.compares_with_reference
    (pairs,) = given_to(preference_losses)
    parts = [preference_losses.make(name)(pairs) for name in ("sigmoid", "bco", "simpo")]
    found = resolving.preference_loss(recipe.algorithm.preference)(pairs)
    assert torch.allclose(found, 0.8 * parts[0] + 0.2 * parts[1] + parts[2])
    alone = resolve(raw, ["algorithm.name=dpo", "algorithm.preference={loss: simpo, more: [{loss: orpo}]}"])
    assert not alone.compares_with_reference


def test_weights_of_a_mean_of_one_and_rejections_arrive(raw: dict[str, Any]) -> None:
    """Weights are divided by the mean over all tokens, rejected ones too: 1 / 2, 2 / 2, and 3 is rejected."""
    ratios = torch.tensor([1.0, 2.0, 3.0])
    inputs = LossInputs(
        torch.zeros(3), ratios.log(), torch.zeros(3), torch.ones(3), torch.ones(3), torch.tensor([0, 1, 2]), 3
    )
    said = "algorithm.loss={correction_cap: 9, correction_mean_one: tokens, rejection: {by: token_k1, high: 2.5}}"
    objectives = Objectives.of(resolve(raw, [said]))
    assert objectives.corrects_whole_batches
    assert objectives.correction(inputs).tolist() == pytest.approx([0.5, 1.0, 0.0])
    assert resolve(raw, [said]).algorithm.loss.rejection.low == 0.4


def test_the_divergence_arrives(raw: dict[str, Any]) -> None:
    recipe = resolve(raw, ["algorithm.name=dpo", "algorithm.preference.divergence=js"])
    (pairs,) = given_to(preference_losses)
    expected = preference_losses.make("sigmoid")(pairs._replace(divergence=divergences.js))
    assert torch.equal(resolving.preference_loss(recipe.algorithm.preference)(pairs), expected)


@pytest.mark.parametrize("loss", [name for name, choice in PREFERENCES.items() if choice.paired])
def test_the_recipe_knows_which_preference_losses_take_a_divergence(loss: str) -> None:
    (pairs,) = given_to(preference_losses)
    plain, measured = (preference_losses.make(loss)(p) for p in (pairs, pairs._replace(divergence=divergences.js)))
    assert torch.equal(plain, measured) != PREFERENCES[loss].divergence


def test_what_the_recipe_says_arrives(raw: dict[str, Any]) -> None:
    recipe = resolve(
        raw,
        [
            "algorithm.loss.kl={coefficient: 0.02, estimator: k2, importance: detached}",
            "algorithm.loss.entropy_coefficient=0.01",
            "algorithm.loss.mini_batches=4",
            "algorithm.advantage=gdpo",
            "algorithm.advantage_clip=5.0",
            "algorithm.filters.pass_rate_min=0.1",
        ],
    )
    objectives = Objectives.of(recipe)
    assert objectives.kl_in_loss and recipe.compares_with_reference and not objectives.kl_in_reward
    made = AdvantageSamples(recipe)
    parts = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    group, valid = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool)
    weighed = advantage_estimators.make("gdpo", weights=(1.0, 0.1))(parts, group, valid)
    assert torch.equal(made.advantages(parts, group), weighed.clamp(-5, 5))
    assert made.filter_reason(torch.tensor([0.0, 0.1])) == "pass_rate"
    assert made.filter_reason(torch.tensor([0.0, 0.3])) is None
