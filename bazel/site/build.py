"""The documentation as a site of static files: `./bazelw run //bazel/site:build -- FOLDER`.

Every page of docs/ and what those link to, with the reference pages that are made of the code. A dead link, or one to a
heading that is not there, is an error.
"""

import argparse
import logging
import os
import pathlib
import sys
import tempfile

from mkdocs.commands.build import build as mkdocs_build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from bazel.site import reference
from bazel.site.staging import DeadLink, staged

ENTRIES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")


def build(tree: pathlib.Path, out: pathlib.Path) -> list[str]:
    """Makes the site of the tree in `out`; its pages. Raises DeadLink, mkdocs' Abort."""
    docs = [str(path.relative_to(tree)) for path in sorted(tree.glob("docs/**/*.md"))]
    with tempfile.TemporaryDirectory() as folder:
        stage = pathlib.Path(folder) / "pages"
        pages = staged(tree, [*ENTRIES, *docs], stage)
        (stage / "reference").mkdir()
        made = {"commands": reference.commands(), "contracts": reference.contracts(tree), "python": reference.python()}
        for name, text in made.items():
            (stage / "reference" / f"{name}.md").write_text(text)
        config = pathlib.Path(__file__).with_name("mkdocs.yml")
        mkdocs_build(load_config(str(config), docs_dir=str(stage), site_dir=str(out), strict=True))
    return [*pages, *(f"reference/{name}.md" for name in made)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    tree = pathlib.Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."))
    try:
        pages = build(tree, args.folder.absolute())
    except (DeadLink, Abort) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{len(pages)} pages in {args.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
