"""Makes an overlay with pip, for the environment of this interpreter: `install(overlay, ["../my_package", "wandb"])`.

pip takes what the environment has as installed, and puts the rest into the folder. Every version that the environment
has is a constraint: a package that wants another one is refused, and nothing of the environment is ever replaced.
"""

from __future__ import annotations

import ensurepip
import importlib.util
import os
import pathlib
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib import metadata

from penstock.packages import hosted
from penstock.packages.overlay import Overlay

LAST_WORDS = 20
"""Lines of pip's that say why."""


class InstallFailed(RuntimeError):
    """It cannot be done; the text is what pip said, or why what it made is not taken."""


def install(overlay: Overlay, wanted: Sequence[str]) -> None:
    """Adds packages to an overlay. It is made anew, of all that was ever asked for, and replaced as a whole.

    Args:
        wanted: what pip takes: names, versions, folders with a pyproject.toml, wheels.

    Raises:
        InstallFailed: a package cannot be had, wants what the environment has in another version, or brings a module or
            a name that is here already.
        OSError: the folder cannot be written.
    """
    asked = list(dict.fromkeys([*overlay.requirements, *(meant(each) for each in wanted)]))
    overlay.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=overlay.folder) as folder:
        made = pathlib.Path(folder)
        _pip(made, asked)
        found = [*made.rglob("site-packages"), *made.rglob("dist-packages")]  # none where all is there already
        check(found)
        if overlay.site.exists():
            overlay.site.rename(made / "before")
        if found:
            found[0].rename(overlay.site)
        else:
            overlay.site.mkdir()
    (overlay.folder / "requirements.txt").write_text("".join(f"{each}\n" for each in asked))


def check(made: Sequence[pathlib.Path]) -> None:
    """An overlay is found before the environment. Raises InstallFailed where that would change what others import, or
    where a name of a reward or environment is taken."""
    files = [path for folder in made for path in folder.iterdir() if path.suffix != ".dist-info"]
    brought = {path.name.partition(".")[0] for path in files}
    taken = sorted(name for name in brought if name in sys.stdlib_module_names or name == "penstock" or _is_here(name))
    if taken:
        raise InstallFailed(f"it brings modules that are here already: {', '.join(taken)}")
    try:
        hosted.rewards(made), hosted.environments(made)
    except ValueError as error:
        raise InstallFailed(f"a name is taken: {error}") from error


def _is_here(name: str) -> bool:
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    return found is not None and found.origin is not None


def meant(wanted: str) -> str:
    """A project's folder, or a file, by its absolute path; anything else as it is.

    pip would take a bare name for a package of the index, also where a project of that name lies beside: somebody
    else's code would be installed. The list means the same from every folder.
    """
    path = pathlib.Path(wanted)
    project = any((path / each).is_file() for each in ("pyproject.toml", "setup.py"))
    return str(path.resolve()) if project or path.is_file() or (os.sep in wanted and path.exists()) else wanted


def _pip(made: pathlib.Path, asked: Sequence[str]) -> None:
    """Installs below `made`/prefix."""
    constraints = made / "constraints.txt"
    pins = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
    command = [sys.executable, str(bundled_pip() / "pip"), "install", "--no-compile", "--no-warn-script-location"]
    command += ["--prefix", str(made / "prefix"), "-c", str(constraints), *asked]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise InstallFailed("\n".join(done.stdout.strip().splitlines()[-LAST_WORDS:]))


def bundled_pip() -> pathlib.Path:
    """The wheel of pip that this Python brings for its virtual environments, which have none: it runs as it is.

    Raises:
        InstallFailed: there is none.
    """
    own = pathlib.Path(ensurepip.__file__).parent / "_bundled"
    folders = [own, *(pathlib.Path(each) for each in (sysconfig.get_config_var("WHEEL_PKG_DIR"),) if each)]
    found = [wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))]
    if not found:
        raise InstallFailed(f"{sys.executable} brings no pip (Debian: install python3-venv)")
    return found[-1]
