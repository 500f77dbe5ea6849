"""What pages say of the tree is true: every file that a page of docs/ or a service's README names is there."""

import pathlib
import re

import pytest

HERE = pathlib.Path.cwd()
TREE = (HERE / "BUILD.bazel").resolve().parent  # the work tree, which a sandbox may read
ROOTS = ("libs/", "services/", "tests/", "deploy/", "docs/", "bazel/", "proto/")
PAGES = sorted(TREE.glob("docs/**/*.md")) + [TREE / "README.md", TREE / "CONTRIBUTING.md"]
READMES = sorted(TREE.glob("services/*/README.md"))


def quoted(page: pathlib.Path) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`\n]+)`", page.read_text())


@pytest.mark.parametrize("page", PAGES + READMES, ids=lambda p: str(p.relative_to(TREE)))
def test_paths_that_a_page_names_exist(page: pathlib.Path) -> None:
    named = [q for q in quoted(page) if q.startswith(ROOTS) and re.fullmatch(r"[\w./*-]+", q)]
    assert not [path for path in named if not any(TREE.glob(path.rstrip("/")))]


@pytest.mark.parametrize("page", READMES, ids=lambda p: p.parent.name)
def test_files_that_a_service_lists_are_its_own(page: pathlib.Path) -> None:
    modules = {q for q in quoted(page) if re.fullmatch(r"[\w/]+\.py", q) and not q.startswith(ROOTS)}
    own = {p.relative_to(page.parent).as_posix() for p in page.parent.rglob("*.py")}
    assert not [m for m in modules if not any(o == m or o.endswith("/" + m) for o in own)]


@pytest.mark.parametrize("page", READMES, ids=lambda p: p.parent.name)
def test_a_service_says_what_each_of_its_files_is(page: pathlib.Path) -> None:
    """So that a newcomer finds the right one; tests and what helps them explain themselves."""
    named = {q.rpartition("/")[2] for q in quoted(page)}
    files = [p.relative_to(page.parent) for p in page.parent.rglob("*.py")]
    silent = ("__main__.py", "conftest.py")
    product = [f for f in files if not f.name.endswith(("_test.py", "_testing.py")) and "testing" not in f.parts]
    rooms = {q.rstrip("/").rpartition("/")[2] for q in quoted(page) if q.endswith("/")}
    whole = {"policy_gradient", "critic", "preference", "reward_model", "builtin"} & rooms  # told as one thing
    told = [f for f in product if f.name in named or f.name in silent or f.parent.name in whole]
    assert sorted(set(product) - set(told)) == []


def test_the_walk_goes_through_every_service_that_a_group_meets() -> None:
    walk = (TREE / "docs/ten-minutes.md").read_text()
    for service in ("coordinator", "rollout", "generation", "environment", "learner", "weight_sync"):
        assert f"services/{service}/" in walk


@pytest.mark.parametrize("page", READMES, ids=lambda p: p.parent.name)
def test_a_command_of_a_readme_starts_a_service_with_flags_that_it_has(page: pathlib.Path) -> None:
    text = re.sub(r"\\\n\s*", "", page.read_text())
    assert "python -m" not in text, "it would need a Python that has all libraries; //services/<name>:server does"
    for service, flags in re.findall(r"^    \./bazelw run //services/(\w+):server -- (.*)$", text, re.M):
        sources = [*(TREE / "services" / service).glob("*.py"), *(TREE / "libs/penstock/process").glob("*.py")]
        known = {flag for p in sources for flag in re.findall(r'"(--[\w-]+)"', p.read_text())}
        assert set(re.findall(r"--[\w-]+", flags)) <= known
