"""The examples of docs/write-your-own.md, as a user would have them: in a file that the recipe names."""

import json
import pathlib
import re
from typing import Any

import pytest
import torch

from penstock.objectives import LossInputs, UnknownChoice, off_policy_corrections
from penstock.recipes import RecipeError, resolve
from services.learner.algorithms import resolve as resolving
from services.learner.algorithms.plugins import PluginError, load_plugins
from services.learner.algorithms.policy_gradient.loss import Objectives
from services.learner.algorithms.policy_gradient.samples import AdvantageSamples

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


def test_a_correction_of_ones_own(plugin: pathlib.Path) -> None:
    assert off_policy_corrections.make("square_root_tis")(inputs()).tolist() == [1.0, 2.0]


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
