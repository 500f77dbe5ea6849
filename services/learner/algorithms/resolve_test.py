"""Every choice that a recipe accepts makes a learner, and what it says arrives."""

import pathlib
from typing import Any

import pytest

from penstock.objectives import (
    Registry,
    advantage_estimators,
    kl_estimators,
    off_policy_corrections,
    policy_losses,
    preference_losses,
)
from penstock.recipes import resolve
from penstock.recipes.checks import ADVANTAGES, CORRECTIONS, LOSSES, PREFERENCE_LOSSES
from services.learner.algorithms.losses import Objectives
from services.learner.algorithms.mapping import advantage_settings, loss_settings, make_stages


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
    assert set(PREFERENCE_LOSSES) == built_in(preference_losses) | {"kto"}
    assert built_in(kl_estimators) == {"k1", "k2", "k3"}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_can_be_chosen(raw: dict[str, Any], loss: str) -> None:
    more = {
        "gspo": ["algorithm.loss.normalisation=sequence"],
        "dppo": ["algorithm.loss.correction=none"],
        "dro": ["algorithm.loss.correction=none", "algorithm.loss.beta=0.1"],
    }
    recipe = resolve(raw, [f"algorithm.loss.name={loss}", *more.get(loss, [])])
    assert Objectives.of(loss_settings(recipe)).settings.policy_loss == loss


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_every_correction_can_be_chosen(raw: dict[str, Any], correction: str) -> None:
    given = [f"algorithm.loss.correction={correction}", "staleness.allow_uncorrected=true"]
    Objectives.of(loss_settings(resolve(raw, given)))
    Objectives.of(
        loss_settings(
            resolve(
                raw,
                [
                    *given,
                    "algorithm.loss.correction_low=0.6",
                    "algorithm.loss.correction_high=3.0",
                    "algorithm.loss.correction_limit=0.1",
                ],
            )
        )
    )


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_every_advantage_can_be_chosen(raw: dict[str, Any], advantage: str) -> None:
    teacher = [f"teacher={{path: {raw['model']['path']}}}"] if advantage == "opd" else []
    make_stages(resolve(raw, [f"algorithm.advantage={advantage}", *teacher]))


@pytest.mark.parametrize("loss", PREFERENCE_LOSSES)
def test_every_preference_loss_can_be_chosen(raw: dict[str, Any], loss: str) -> None:
    recipe = resolve(raw, ["algorithm.name=dpo", f"algorithm.preference.loss={loss}"])
    settings = loss_settings(recipe)
    assert settings.algorithm == "dpo" and settings.needs_reference == (loss not in ("simpo", "orpo"))
    assert settings.needs_reference == recipe.compares_with_reference
    if loss != "kto":
        preference_losses.make(settings.preference.loss, **settings.preference.loss_settings)


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
    loss, advantage = loss_settings(recipe), advantage_settings(recipe)
    assert (loss.kl_coefficient, loss.kl_estimator, loss.kl_importance) == (0.02, "k2", "detached")
    assert (
        loss.needs_reference
        and recipe.compares_with_reference
        and loss.entropy_coefficient == 0.01
        and loss.optimizer_steps_per_batch == 4
    )
    assert advantage.components == ("right", "short") and advantage.estimator_settings == {"weights": (1.0, 0.1)}
    assert advantage.clip == 5.0 and advantage.pass_rate == (0.1, 1.0)
