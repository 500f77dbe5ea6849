"""What kustomize makes of a folder: kubectl's own, or the program itself, where one of them is on this machine."""

import pathlib
import shutil
import subprocess
from typing import Any

import yaml


def _command() -> list[str] | None:
    if (found := shutil.which("kustomize")) is not None:
        return [found, "build"]
    if (found := shutil.which("kubectl")) is not None:
        return [found, "kustomize"]
    return None


def no_kustomize() -> str:
    """Why nothing can be built here; empty where it can."""
    return "" if _command() is not None else "neither kubectl nor kustomize is on this machine"


def built(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The objects that are applied. Raises CalledProcessError, whose output says why."""
    command = _command()
    assert command is not None
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))
