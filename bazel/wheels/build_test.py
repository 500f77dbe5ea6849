"""What a wheel has in it, and that the same files give the same bytes."""

import pathlib
import zipfile

from bazel.wheels.build import main
from penstock.system.version import VERSION

PROJECT = """\
[build-system]
requires = ["setuptools"]
[project]
name = "{name}"
readme = "README.md"
dynamic = ["version", "dependencies"]
[tool.setuptools.dynamic]
version = {{file = "version.txt"}}
dependencies = {{file = "requirements.txt"}}
[tool.setuptools.packages.find]
[tool.setuptools.package-data]
"*" = ["*"]
"""


def tree(folder: pathlib.Path, **files: str) -> list[str]:
    """Writes libs/space/<name> files and gives the pairs that a rule would."""
    pairs = []
    for name, text in files.items():
        path = f"libs/space/{name.replace('__', '/', 1).replace('_py', '.py').replace('_sh', '.sh')}"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        pairs.append(f"{folder / path}={path}")
    return pairs


def wheel(folder: pathlib.Path, name: str, pairs: list[str], on: pathlib.Path | None = None) -> pathlib.Path:
    """Builds one and gives its folder."""
    for file, text in (("pyproject.toml", PROJECT.format(name=name)), ("README.md", "# x\n"), ("LICENSE", "y\n")):
        (folder / file).write_text(text)
    about = [f"--{flag}={folder / file}" for flag, file in (("project", "pyproject.toml"), ("readme", "README.md"))]
    out = folder / f"out-{len(list(folder.glob('out-*')))}"
    main(
        [
            *about,
            f"--licence={folder / 'LICENSE'}",
            "--root=libs",
            f"--out={out}",
            *([f"--on={on}"] if on else []),
            *pairs,
        ]
    )
    return out


def opened(folder: pathlib.Path) -> zipfile.ZipFile:
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def test_a_wheel_has_its_modules_its_data_and_its_types(tmp_path: pathlib.Path) -> None:
    pairs = tree(tmp_path, a__one_py="import numpy\n", a__run_sh="#!/bin/sh\n")
    with opened(wheel(tmp_path, "first", pairs)) as archive:
        about = archive.read(f"first-{VERSION}.dist-info/METADATA").decode()
        assert {"space/a/one.py", "space/a/run.sh", "space/a/py.typed"} <= set(archive.namelist())
        assert f"Version: {VERSION}\n" in about and "Requires-Dist: numpy" in about
        modes = {i.filename: i.external_attr >> 16 & 0o777 for i in archive.infolist()}
        assert modes["space/a/run.sh"] == 0o755 and modes["space/a/one.py"] == 0o644


def test_the_same_files_give_the_same_bytes(tmp_path: pathlib.Path) -> None:
    pairs = tree(tmp_path, a__one_py="x = 1\n", b__two_py="y = 1\n")
    first, again = (wheel(tmp_path, "first", each) for each in (pairs, pairs[::-1]))
    assert next(first.glob("*.whl")).read_bytes() == next(again.glob("*.whl")).read_bytes()


def test_a_wheel_on_another_leaves_that_ones_files_out_and_requires_it(tmp_path: pathlib.Path) -> None:
    below = tree(tmp_path, a__one_py="x = 1\n")
    above = tree(tmp_path, b__two_py="from space.a.one import x\n")
    with opened(wheel(tmp_path, "second", [*below, *above], on=wheel(tmp_path, "first", below))) as archive:
        assert "space/b/two.py" in archive.namelist() and "space/a/one.py" not in archive.namelist()
        assert f"Requires-Dist: first=={VERSION}\n" in archive.read(f"second-{VERSION}.dist-info/METADATA").decode()
