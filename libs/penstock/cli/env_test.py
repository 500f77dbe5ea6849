"""A package of a user's own, from its pyproject.toml to a recipe that names its reward. Nothing is fetched."""

import pathlib

import pytest
from typer.testing import CliRunner

from penstock.cli.main import app
from penstock.packages import Overlay, hosted
from penstock.system import exits

PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "my-package"
version = "1"
dependencies = [{needs}]
[project.entry-points."penstock.rewards"]
brevity = "my_package:brevity"
[tool.setuptools]
packages = ["my_package"]
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # pip's way to say: with the setuptools that is here


def package(folder: pathlib.Path, needs: str = "") -> pathlib.Path:
    (folder / "my_package").mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(PROJECT.format(needs=needs))
    (folder / "my_package" / "__init__.py").write_text("def brevity(sample): return 1.0\n")
    return folder


def add(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["env", "add", *(str(word) for word in words)])
    return done.exit_code, done.output


def test_a_package_is_laid_over_the_environment_and_its_reward_found(tmp_path: pathlib.Path) -> None:
    mine, to = package(tmp_path / "mine", needs='"numpy"'), tmp_path / "packages"
    code, said = add("environment", mine, "--to", to)
    assert code == exits.DONE and "reward brevity: my_package:brevity" in said, said
    overlay = Overlay(to)
    assert hosted.rewards([overlay.site])["brevity"] == "my_package:brevity"
    # numpy is there already
    assert {p.name for p in overlay.site.iterdir()} == {"my_package", "my_package-1.dist-info"}, (
        "numpy is there already"
    )
    before = overlay.sha256()
    (mine / "my_package" / "more.py").write_text("")
    assert add("environment", mine, "--to", to)[0] == exits.DONE, "the same command takes up a change"
    assert overlay.sha256() != before and overlay.requirements == [str(mine)]


def test_a_package_that_wants_another_version_of_what_is_pinned_is_refused_and_nothing_changes(
    tmp_path: pathlib.Path,
) -> None:
    code, said = add("environment", package(tmp_path / "mine", needs='"numpy<1"'), "--to", tmp_path / "packages")
    assert code == exits.FAILED and "numpy" in said
    assert not Overlay(tmp_path / "packages").site.exists() and not Overlay(tmp_path / "packages").requirements


def test_a_service_that_takes_no_packages_is_refused(tmp_path: pathlib.Path) -> None:
    code, said = add("learner", "x", "--to", tmp_path)
    assert code == exits.BAD_INPUT and "is not one of environment, coordinator" in said
