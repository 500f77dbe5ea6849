"""What is installed is what was meant: the project that lies here before a stranger's of the same name."""

import pathlib

import pytest

from penstock.packages.installing import InstallFailed, bundled_pip, check, meant


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


@pytest.mark.parametrize("module", ["graphlib.py", "yaml/__init__.py", "penstock/own.py"])
def test_what_is_imported_here_is_never_replaced(tmp_path: pathlib.Path, module: str) -> None:
    (tmp_path / "mine-1.dist-info").mkdir()
    (tmp_path / "mine.py").write_text("")
    check([tmp_path])
    (tmp_path / module).parent.mkdir(exist_ok=True)
    (tmp_path / module).write_text("")
    with pytest.raises(InstallFailed, match=f"here already: {pathlib.Path(module).parts[0].removesuffix('.py')}"):
        check([tmp_path])


def test_a_name_that_ships_is_not_taken_by_a_package(tmp_path: pathlib.Path) -> None:
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[penstock.rewards]\nmath = mine:math\n")
    with pytest.raises(InstallFailed, match="'math' is both"):
        check([tmp_path])
