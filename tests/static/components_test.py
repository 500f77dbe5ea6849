"""No folder with Python escapes the checks: what lies in the work tree is what bazel/components.bzl lists."""

import pathlib
import re

HERE = pathlib.Path.cwd()  # the runfiles: what the lists reach
TREE = (HERE / "BUILD.bazel").resolve().parent  # the work tree, which a sandbox may read


def python_files(root: pathlib.Path) -> set[str]:
    """Paths below root of what we wrote; outputs of builds and runs are left out."""
    hidden = (".bazel", ".git", ".ruff_cache", ".mypy_cache", "runs", "node_modules")
    found = {p.relative_to(root) for p in root.rglob("*.py")}
    return {p.as_posix() for p in found if p.parts[0] not in hidden and "__pycache__" not in p.parts}


def test_every_python_file_of_the_tree_is_in_a_listed_component() -> None:
    tree = python_files(TREE)
    assert "tests/static/components_test.py" in tree, f"{TREE} is not the work tree: this test would prove nothing"
    unlisted = sorted(tree - python_files(HERE))
    assert not unlisted, f"in no list of bazel/components.bzl, so neither linted nor typed nor tested: {unlisted}"


def test_bzlmod_names_every_environment() -> None:
    named = set(re.findall(r'"venv_(\w+)"', (HERE / "MODULE.bazel").read_text()))
    assert named == set(re.findall(r'^    "(\w+)": {', (HERE / "bazel/environments.bzl").read_text(), re.MULTILINE))
