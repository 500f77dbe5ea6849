"""What a recipe names and no package has is told before a run starts, and only to those who start it."""

import importlib.util
import pathlib
from typing import Any

import pytest

from penstock.recipes import resolve
from penstock.recipes.checks.packages import check_packages

ASKED = ["telemetry.wandb_project=a", "telemetry.mlflow_experiment=b"]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """As `penstock env add` makes it: a reward, an environment, and a package called wandb."""
    info = tmp_path / "packages" / "site" / "mine-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[penstock.rewards]\nmine = mine:reward\n[penstock.environments]\nMine = mine:Mine\n"
    )
    (info.parent / "wandb.py").write_text("")
    return tmp_path / "packages"


def test_a_tracker_that_is_not_installed_is_named_with_what_to_do(
    raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else object())
    (problem,) = check_packages(resolve(raw, ASKED))
    assert problem == (
        "telemetry.wandb_project: the package 'wandb' is not installed where the coordinator runs; `penstock env add "
        "coordinator wandb` makes a folder of packages for packages.folder, or set the key to null: metrics.jsonl has "
        "every step"
    )


def test_what_is_installed_or_not_asked_for_is_no_problem(raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert check_packages(resolve(raw, ASKED)) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert check_packages(resolve(raw, ["telemetry.tensorboard=false"])) == []
    assert len(check_packages(resolve(raw))) == 1


def test_a_tracker_in_the_recipes_folder_is_there(
    raw: dict[str, Any], folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else object())
    assert check_packages(resolve(raw, ["telemetry.wandb_project=a", f"packages.folder={folder}"])) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["environment.rewards=[{name: format}, {name: mien}]"], "environment.rewards[1].name: no reward 'mien' ships"),
        (["environment.name=sort_charcters"], "(did you mean sort_characters?)"),
        (["environment={name: Mien, multi_turn: true}"], "environment.name: no environment 'Mien' ships"),
    ],
)
def test_a_reward_or_environment_that_nobody_has_is_named(
    raw: dict[str, Any], changes: list[str], problem: str
) -> None:
    (said,) = check_packages(resolve(raw, changes))
    assert problem in said and "penstock env add environment" in said


@pytest.mark.parametrize(
    "changes",
    [["environment.rewards=[{name: mine}]"], ["environment={name: Mine, multi_turn: true}"]],
)
def test_what_a_package_of_the_recipes_folder_announces_is_there(
    raw: dict[str, Any], folder: pathlib.Path, changes: list[str]
) -> None:
    assert len(check_packages(resolve(raw, changes))) == 1
    assert check_packages(resolve(raw, [*changes, f"packages.folder={folder}"])) == []


def test_another_teams_reward_needs_no_package(raw: dict[str, Any]) -> None:
    assert check_packages(resolve(raw, ["environment.rewards=[{name: theirs, address: 'h:1'}]"])) == []
