"""The examples of docs/write-your-own.md, as a user would have them: in a file that the recipe names."""

import dataclasses
import json
import pathlib
import re
from typing import Any

import pytest
import torch

from penstock.objectives import LossInputs, UnknownChoice, kl, off_policy_corrections
from penstock.objectives.preferences import Pairs
from penstock.recipes import RecipeError, resolve
from services.learner.algorithms import resolve as resolving
from services.learner.algorithms.plugins import PluginError, load_plugins
from services.learner.algorithms.policy_gradient.loss import Objectives
from services.learner.algorithms.policy_gradient.samples import AdvantageSamples
from services.learner.interface.batch import Batch, TrainingSample

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "write-your-own.md"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("plugin") / "mine.py"
    path.write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)))
    load_plugins([str(path)])
    return path


def recipe(folder: pathlib.Path, plugin: pathlib.Path, **algorithm: Any) -> Any:
    (folder / "config.json").write_text("{}")
    (folder / "train.jsonl").write_text("{}\n")
    return resolve(
        json.loads(
            json.dumps(
                {
                    "run": "r",
                    "plugins": [str(plugin)],
                    "model": {"path": str(folder)},
                    "data": {"train": str(folder / "train.jsonl")},
                    "environment": {"name": "e"},
                    "algorithm": {"steps": 1, **algorithm},
                }
            )
        )
    )


def inputs() -> LossInputs:
    return LossInputs(
        current=torch.tensor([-1.0, -2.0], requires_grad=True),
        proximal=torch.tensor([-1.0, -2.0]),
        behaviour=torch.tensor([-1.0, -6.0]),
        advantage=torch.tensor([0.5, -100.0]),
        mask=torch.ones(2),
        sequence=torch.tensor([0, 1]),
        sequences=2,
    )


def test_a_loss_of_ones_own_is_chosen_by_name_with_its_settings(tmp_path: pathlib.Path, plugin: pathlib.Path) -> None:
    own = recipe(tmp_path, plugin, loss={"name": "soft_reinforce", "settings": {"bound": 4.0}})
    values, _ = Objectives.of(own).policy_loss(inputs())
    assert values.tolist() == pytest.approx([4 * torch.tanh(torch.tensor(0.125)).item(), -8.0])
    wrong = recipe(tmp_path, plugin, loss={"name": "soft_reinforce", "settings": {"bond": 4.0}})
    with pytest.raises(UnknownChoice, match="no setting 'bond'.*did you mean 'bound'"):
        Objectives.of(wrong)


def test_an_advantage_and_a_filter_of_ones_own(tmp_path: pathlib.Path, plugin: pathlib.Path) -> None:
    own = recipe(
        tmp_path, plugin, advantage="above_best", advantage_settings={"margin": 0.1}, filters={"own": ["too_easy"]}
    )
    valid = torch.tensor([True, True, True, False])
    rewards = torch.tensor([1.0, 0.5, 0.0, 9.0])
    got = resolving.advantage(own)(rewards, torch.zeros(4, dtype=torch.int64), valid, valid.long())
    assert got.tolist() == pytest.approx([0.4, -0.6, -1.1, 0.0])
    maker = AdvantageSamples(own)
    assert maker.advantages(rewards[:3], torch.zeros(3, dtype=torch.int64)).tolist() == got[:3].tolist()
    assert maker.filter_reason(rewards[:3]) is None
    assert maker.filter_reason(torch.tensor([1.0, 1.0, 0.0])) == "too_easy"


def test_a_correction_of_ones_own_with_its_settings(tmp_path: pathlib.Path, plugin: pathlib.Path) -> None:
    assert off_policy_corrections.make("square_root_tis")(inputs()).tolist() == [1.0, 2.0]
    said = {"correction": "square_root_tis", "correction_settings": {"cap": 1.5}}
    own = Objectives.of(recipe(tmp_path, plugin, loss=said))
    assert own.correction(inputs()).tolist() == [1.0, 1.5]
    with pytest.raises(UnknownChoice, match="no setting 'cup'.*did you mean 'cap'"):
        Objectives.of(recipe(tmp_path, plugin, loss={**said, "correction_settings": {"cup": 1.5}}))
    with pytest.raises(RecipeError, match="correction_settings: tis is none of your own; it uses correction_cap"):
        recipe(tmp_path, plugin, loss={"correction_settings": {"cap": 1.5}})


def test_a_kl_estimator_of_ones_own(tmp_path: pathlib.Path, plugin: pathlib.Path) -> None:
    """Log-ratios .5 and 2: .125 and 1.5."""
    own = recipe(tmp_path, plugin, loss={"kl": {"coefficient": 0.1, "estimator": "huber", "importance": "none"}})
    assert Objectives.of(own).kl_in_loss
    compared = dataclasses.replace(inputs(), reference=torch.tensor([-1.5, -4.0]))
    assert kl.kl_loss(compared, "huber", "none").tolist() == [0.125, 1.5]


def test_a_normalisation_of_ones_own(tmp_path: pathlib.Path, plugin: pathlib.Path) -> None:
    """Answers of one and of four tokens count one and two."""
    samples = [TrainingSample([1] * (n + 1), [0] + [1] * n, [0.0] * (n + 1), 1.0, 0) for n in (1, 4)]
    weights = resolving.weights(recipe(tmp_path, plugin, loss={"normalisation": "by_root"}))
    found = weights(Batch.from_samples(samples, "advantage"))
    assert found.tolist() == pytest.approx([0, 1 / 3, 0, 1 / 6, 1 / 6, 1 / 6, 1 / 6])
    with pytest.raises(UnknownChoice, match="unknown normalisation 'by_rot'"):
        resolving.weights(recipe(tmp_path, plugin, loss={"normalisation": "by_rot"}))


def test_a_preference_loss_of_ones_own(tmp_path: pathlib.Path, plugin: pathlib.Path) -> None:
    """Margin 2, beta .25: half of it is missed, .125; a second one among more."""
    given = [torch.tensor([x]) for x in (-1.0, -3.0, -2.0, -2.0, 4.0, 4.0)]
    said = {"loss": "cubic", "settings": {"beta": 0.25}}
    for preference, expected in ((said, 0.125), ({**said, "more": [{**said, "weight": 2.0}]}, 0.375)):
        own = recipe(tmp_path, plugin, name="dpo", preference=preference)
        assert resolving.preference_loss(own.algorithm.preference)(Pairs(*given)).tolist() == pytest.approx([expected])
    with pytest.raises(UnknownChoice, match="no setting 'bta'"):
        wrong = recipe(tmp_path, plugin, name="dpo", preference={"loss": "cubic", "settings": {"bta": 1.0}})
        resolving.preference_loss(wrong.algorithm.preference)
    with pytest.raises(RecipeError, match="preference.beta: cubic does not use it"):
        recipe(tmp_path, plugin, name="dpo", preference={"loss": "cubic", "beta": 0.2})


def test_a_name_that_nobody_registers_is_refused_by_the_learner(tmp_path: pathlib.Path, plugin: pathlib.Path) -> None:
    with pytest.raises(UnknownChoice, match="unknown policy loss 'soft_reinforc'.*did you mean 'soft_reinforce'"):
        Objectives.of(recipe(tmp_path, plugin, loss={"name": "soft_reinforc"}))


def test_plugins_that_cannot_be_imported_are_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(PluginError, match=r"broken.py' cannot be imported: ZeroDivisionError"):
        load_plugins([str(tmp_path / "broken.py")])
    with pytest.raises(PluginError, match="no_such_module"):
        load_plugins(["no_such_module"])
    with pytest.raises(RecipeError, match="plugins: no file"):
        recipe(tmp_path, tmp_path / "absent.py")
