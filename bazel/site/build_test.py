"""The site is made without a warning of the tree as it is, and loads nothing from anywhere."""

import pathlib
import re

import pytest

from bazel.site.build import build
from bazel.site.staging import DeadLink, staged

HERE = pathlib.Path.cwd()
TREE = (HERE / "BUILD.bazel").resolve().parent  # the work tree, which a sandbox may read


def test_every_page_is_in_the_site_and_nothing_comes_from_another_host(tmp_path: pathlib.Path) -> None:
    pages = build(TREE, tmp_path / "site")
    assert {"README.md", "docs/recipes.md", "docs/fleet/hosts.md", "reference/commands.md"} <= set(pages)
    for page in pages:
        path = page.removesuffix(".md")
        path = path.removesuffix("README").removesuffix("index") if path.endswith(("README", "index")) else path
        assert (tmp_path / "site" / path / "index.html").is_file(), page
    html = "".join(path.read_text() for path in (tmp_path / "site").rglob("*.html"))
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?:[^>]*>", html)
    commands = (tmp_path / "site" / "reference" / "commands" / "index.html").read_text()
    assert "--page-port" in commands and "penstock" in commands
    assert "ScoreStream" in (tmp_path / "site" / "reference" / "contracts" / "index.html").read_text()


def test_a_link_to_nothing_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "code").mkdir()
    (tmp_path / "docs" / "a.md").write_text("[b](b.md#x) [code](../code) `[c](c.md)`\n```\n[d](d.md)\n```\n")
    with pytest.raises(DeadLink, match=r"docs/a.md links to b.md#x"):
        staged(tmp_path, ["docs/a.md"], tmp_path / "out")
    (tmp_path / "docs" / "b.md").write_text("# x\n")
    (tmp_path / "docs" / "c.md").write_text("# c\n")
    assert staged(tmp_path, ["docs/a.md"], tmp_path / "out") == ["docs/a.md", "docs/b.md", "docs/c.md"]
    assert (tmp_path / "out" / "docs" / "a.md").read_text().startswith("[b](b.md#x) code ")
