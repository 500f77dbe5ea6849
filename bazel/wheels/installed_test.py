"""The wheels of the tree, installed where there is neither Bazel nor torch."""

import json
import os
import pathlib

import pytest

from penstock.system.version import VERSION
from penstock.testing.clean_environment import CleanEnvironment

SDK, PENSTOCK = "PENSTOCK_SDK_WHEEL", "PENSTOCK_WHEEL"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    folder = tmp_path_factory.mktemp("clean") / "venv"
    return CleanEnvironment(folder, [pathlib.Path(os.environ[name]) for name in (SDK, PENSTOCK)])


def test_the_version_is_said(environment: CleanEnvironment) -> None:
    assert environment.run("penstock", "--version") == f"penstock {VERSION}\n"


def test_no_heavy_library_comes_along(environment: CleanEnvironment) -> None:
    program = "from importlib.util import find_spec as f; print([m for m in ('torch', 'vllm', 'megatron') if f(m)])"
    assert environment.run("python", "-c", program) == "[]\n"


def test_runs_are_listed_from_their_files(environment: CleanEnvironment, tmp_path: pathlib.Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "recipe.yaml").write_text("run: mine\n")
    told = {"status": "done", "steps": 7, "reward_first": 0.25, "reward_last": 0.9}
    (tmp_path / "runs" / "mine" / "summary.json").write_text(json.dumps(told))
    assert "0.250 → 0.900" in environment.run("penstock", "ls", cwd=tmp_path)


def test_a_script_of_the_sdk_can_be_run(environment: CleanEnvironment) -> None:
    (script,) = environment.folder.glob("lib/*/site-packages/penstock/system/spawn.sh")
    assert os.access(script, os.X_OK)
