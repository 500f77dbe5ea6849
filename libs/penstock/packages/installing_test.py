"""What is installed is what was meant: the project that lies here before a stranger's of the same name."""

import pathlib

import pytest

from penstock.packages.installing import bundled_pip, meant


def test_a_project_here_is_taken_before_one_of_that_name_elsewhere(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "wandb"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "pyproject.toml").write_text("")
    (tmp_path / "mine-1-py3-none-any.whl").write_text("")
    assert meant("mine") == str(tmp_path / "mine")
    assert meant("mine-1-py3-none-any.whl") == str(tmp_path / "mine-1-py3-none-any.whl")
    assert meant("wandb") == "wandb", "the folder of W&B's files is no project"
    assert meant("./wandb") == str(tmp_path / "wandb"), "pip says that this is none"
    assert meant("mlflow-skinny>=3") == "mlflow-skinny>=3"


def test_this_python_brings_a_pip() -> None:
    assert bundled_pip().suffix == ".whl"
