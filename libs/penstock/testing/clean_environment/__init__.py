"""A virtual environment that has wheels of ours and what they require, and nothing else: no Bazel, no source tree.

What the wheels require is linked from the environment that the test runs in, each distribution whole, so that nothing
is fetched. pip installs the wheels and then checks that what they require is there in the versions that they take.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import venv
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement

VARIABLES = ("HOME", "TMPDIR", "LANG")


class CleanEnvironment:
    """What a person has after `pip install WHEEL…`."""

    def __init__(self, folder: pathlib.Path, wheels: Iterable[pathlib.Path]) -> None:
        """Makes it.

        Args:
            folder: where; made by this.
            wheels: folders with a wheel each, as `py_wheel` builds them.

        Raises:
            CalledProcessError: pip refuses a wheel, or misses what it requires.
        """
        self.folder = folder
        venv.create(folder, with_pip=True, symlinks=True)
        self.run("pip", "install", "-q", "--no-index", "--no-deps", *(str(w) for d in wheels for w in d.glob("*.whl")))
        (packages,) = folder.glob("lib/python*/site-packages")
        ours = list(metadata.distributions(path=[str(packages)]))
        have = {each.metadata["Name"].lower() for each in ours}
        wanted = [r for each in ours for r in each.requires or () if Requirement(r).name.lower() not in have]
        for distribution in closure(wanted):
            link(distribution, packages)
        self.run("pip", "check")

    @property
    def variables(self) -> dict[str, str]:
        """The variables of a shell in which the environment is active; none of the test's own reaches it."""
        kept = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        return {**kept, "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin"}

    def run(self, program: str, *arguments: str, cwd: pathlib.Path | None = None) -> str:
        """What a program of the environment prints.

        Raises:
            CalledProcessError: it fails.
        """
        command = [str(self.folder / "bin" / program), *arguments]
        return subprocess.run(
            command, cwd=cwd, env=self.variables, text=True, stdout=subprocess.PIPE, check=True
        ).stdout


def closure(requirements: Iterable[str]) -> Iterator[metadata.Distribution]:
    """The distributions that pip would install for these requirements, out of those that are here."""
    seen, todo = set(), [Requirement(text) for text in requirements]
    while todo:
        wanted = todo.pop()
        extras = wanted.extras or {""}
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        if (wanted.name.lower(), *sorted(extras)) in seen:
            continue
        seen.add((wanted.name.lower(), *sorted(extras)))
        found = metadata.distribution(wanted.name)
        yield found
        for text in found.requires or ():
            below = Requirement(text)
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in extras):
                below.marker = None
                todo.append(below)


def link(distribution: metadata.Distribution, packages: pathlib.Path) -> None:
    """Links the files of a distribution into another environment, but its programs."""
    for file in distribution.files or ():
        target = packages / file
        if file.parts[0] == ".." or "__pycache__" in file.parts or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.path.realpath(str(distribution.locate_file(file))))
