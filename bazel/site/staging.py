"""Copies the pages of the tree, and whatever they link to, to a folder of their own.

A link to a folder leads to its README, or is no link where there is none: a site has no listing. Invariant (test name):
a link to nothing is an error.
"""

import os
import pathlib
import re
import shutil
from collections.abc import Iterable

LINK = re.compile(r"(\[[^\]]*\])\(([^)\s]+)\)")
CODE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)
ELSEWHERE = ("http:", "https:", "mailto:", "#")


class DeadLink(ValueError):
    """A page links to what is not there."""


def staged(tree: pathlib.Path, pages: Iterable[str], out: pathlib.Path) -> list[str]:
    """Copies pages of `tree`, by their paths in it, and what they link to, into `out`; all pages that it has then.

    Raises DeadLink, naming page and link.
    """
    left, done = list(pages), set[str]()
    while left:
        page = left.pop()
        if page in done:
            continue
        done.add(page)
        text, linked = _rewritten(tree, page)
        target = out / page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        for path in linked:
            if path.endswith(".md"):
                left.append(path)
            else:
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(tree / path, out / path)
    return sorted(done)


def _rewritten(tree: pathlib.Path, page: str) -> tuple[str, list[str]]:
    """A page's text as the site has it, and the files of the tree that it links to."""
    text, linked = (tree / page).read_text(), list[str]()
    folder = os.path.dirname(page)

    def link(found: re.Match[str]) -> str:
        words, target = found.groups()
        if target.startswith(ELSEWHERE):
            return found.group()
        path, hash_, anchor = target.partition("#")
        place = os.path.normpath(os.path.join(folder, path))
        if (tree / place).is_dir():
            place = f"{place}/README.md"
            if not (tree / place).is_file():
                return words[1:-1]
        if place.startswith("..") or not (tree / place).is_file():
            raise DeadLink(f"{page} links to {target}, which is not there")
        linked.append(place)
        return f"{words}({os.path.relpath(place, folder or '.')}{hash_}{anchor})"

    parts, at = list[str](), 0
    for code in CODE.finditer(text):
        parts += [LINK.sub(link, text[at : code.start()]), code.group()]
        at = code.end()
    return "".join([*parts, LINK.sub(link, text[at:])]), linked
