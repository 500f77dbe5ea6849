"""Builds a wheel: python -m bazel.wheels.build --project pyproject.toml … --out FOLDER FILE=PATH…

setuptools does it, from a tree that is laid out here: the files that Bazel found by following `deps`, the project's
pyproject.toml, whose version and requirements are dynamic, README and licence. The same files give the same bytes: the
time of every entry is that of the zip format's beginning, and modes are set.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import metadata

from bazel.wheels.requirements import module_of, requirements
from penstock.system.version import VERSION

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
EPOCH = "315532800"  # 1980-01-01, before which a zip knows no time


def lay_out(stage: pathlib.Path, files: Sequence[str], roots: Sequence[str], without: set[str]) -> list[str]:
    """Copies `FILE=PATH` to where it is imported from, less what another wheel has; returns the places."""
    placed = []
    for pair in files:
        file, _, path = pair.partition("=")
        root = max((root for root in roots if path.startswith(root + "/")), key=len, default="")
        place = path[len(root) + 1 :] if root else path
        if place in without:
            continue
        put(pathlib.Path(file), stage / place)
        placed.append(place)
    return placed


def put(source: pathlib.Path, target: pathlib.Path) -> None:
    """A copy. What starts with `#!` is a program; the file's own mode says nothing, as Bazel sets it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if source.read_bytes().startswith(b"#!") else 0o644)


def mark_typed(stage: pathlib.Path, places: Sequence[str]) -> None:
    """py.typed in each package below the two namespaces, where PEP 561 wants it."""
    for package in {pathlib.PurePath(place).parts[:2] for place in places if "/" in place}:
        (stage.joinpath(*package) / "py.typed").touch(mode=0o644)


def beneath(wheel: pathlib.Path) -> tuple[str, set[str]]:
    """The requirement that stands for another wheel of ours, in this very version, and the places of its files."""
    (found,) = wheel.glob("*.whl")
    with zipfile.ZipFile(found) as archive:
        places = set(archive.namelist())
        (record,) = (place for place in places if place.endswith(".dist-info/METADATA"))
        about = metadata.PathDistribution(zipfile.Path(archive, record.rpartition("/")[0] + "/")).metadata
        return f"{about['Name']}=={about['Version']}", places


def build(stage: pathlib.Path, out: pathlib.Path) -> None:
    """Runs setuptools in the tree; what it says is shown if it fails."""
    env = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out.resolve())],
        cwd=stage, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(fromfile_prefix_chars="@")
    parser.add_argument("--project", type=pathlib.Path, required=True, help="the pyproject.toml")
    parser.add_argument("--readme", type=pathlib.Path, required=True)
    parser.add_argument("--licence", type=pathlib.Path, required=True)
    parser.add_argument("--root", action="append", default=[], help="folder that modules are imported from")
    parser.add_argument("--on", type=pathlib.Path, help="folder of another wheel of ours, which this one needs")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("files", nargs="+", metavar="FILE=PATH")
    args = parser.parse_args(arguments)
    needed, others = beneath(args.on) if args.on else ("", set())
    with tempfile.TemporaryDirectory() as folder:
        stage = pathlib.Path(folder)
        places = lay_out(stage, args.files, args.root, others)
        sources = {name: (stage / p).read_text() for p in places if (name := module_of(pathlib.PurePath(p)))}
        own = {name for p in others if (name := module_of(pathlib.PurePath(p)))}
        wanted = ([needed] if needed else []) + requirements(sources, own)
        mark_typed(stage, places)
        (stage / "requirements.txt").write_text("\n".join(wanted) + "\n")
        (stage / "version.txt").write_text(VERSION + "\n")
        put(args.project, stage / "pyproject.toml")
        put(args.readme, stage / "README.md")
        put(args.licence, stage / "LICENSE")
        args.out.mkdir(parents=True, exist_ok=True)
        build(stage, args.out)


if __name__ == "__main__":
    main(sys.argv[1:])
