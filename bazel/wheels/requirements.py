"""What a wheel depends on, computed from its imports: no list of requirements is kept beside the code.

A module of someone else belongs to the distribution of this environment that has its file. The range starts at the
release that the locks of this tree pin, which is the one the tests ran with, and ends before the next major release.
Imports inside functions count; an optional library is imported by its name with importlib, and does not.
"""

from __future__ import annotations

import ast
import functools
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata

from packaging.version import Version


def imported(source: str) -> Iterator[str]:
    """Dotted names that a module imports; of `from a import b` both `a.b`, which may be a module, and so `a`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(file: pathlib.PurePath) -> str | None:
    """The dotted name under which a file is imported; None for what is no module."""
    stem, _, rest = file.name.partition(".")
    if not (rest == "py" or rest.endswith("so")):
        return None
    parts = file.parts[:-1] if stem == "__init__" else (*file.parts[:-1], stem)
    return ".".join(parts)


@functools.cache
def installed_modules() -> Mapping[str, str]:
    """Module -> distribution, of everything in this environment.

    Read from the RECORD files as text: metadata's own `files` looks for each of tens of thousands.
    """
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        files = [line.partition(",")[0] for line in (distribution.read_text("RECORD") or "").splitlines()]
        found |= dict.fromkeys(filter(None, (module_of(pathlib.PurePath(f)) for f in files)), distribution.name)
    return found


def longest(name: str, known: Iterable[str] | Mapping[str, str]) -> str | None:
    """`a.b` of `a.b.c` where that is the longest beginning that is known."""
    parts = name.split(".")
    return next((head for n in range(len(parts), 0, -1) if (head := ".".join(parts[:n])) in known), None)


def compatible(distribution: str, version: str) -> str:
    """The requirement: from the release that was tested to before the next major one.

    A release candidate or beta stands whole, because a range from its release on would leave it out.
    """
    tested = Version(version)
    start = version if tested.is_prerelease else f"{tested.major}.{tested.minor}"
    return f"{distribution}>={start},<{tested.major + 1}"


def requirements(sources: Mapping[str, str], own: Iterable[str]) -> list[str]:
    """What to install beside a wheel.

    Args:
        sources: name -> text of each module of the wheel.
        own: further modules of ours that come with other wheels of ours.

    Raises:
        ValueError: a module is imported that nothing here has.
    """
    ours = {*sources, *own}
    modules = installed_modules()
    found = set()
    for file, source in sources.items():
        for name in imported(source):
            if name.partition(".")[0] in sys.stdlib_module_names or longest(name, ours):
                continue
            module = longest(name, modules)
            if module is None:
                raise ValueError(f"{file} imports {name}, which is neither ours nor in this environment")
            found.add(modules[module])
    return sorted(compatible(each, metadata.version(each)) for each in found)
