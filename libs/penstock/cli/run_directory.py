"""runs/<name>: one run's files, held by one process at a time."""

import fcntl
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from penstock.recipes import Recipe, dump

# How the learner computes, not what: a checkpoint goes on under any of these.
MAY_CHANGE = (
    "learner.ranks",
    "learner.parallel.",
    "learner.recompute",
    "learner.offload",
    "learner.micro_batch_tokens",
    "learner.threads",
    "learner.device_gib",
    "learner.hung_seconds",
    "learner.collective_minutes",
    "learner.checkpoints.",
)


class RunRefused(RuntimeError):
    """The run directory cannot be used as asked; the text says why and what to do."""


@contextmanager
def held(root: pathlib.Path, recipe: Recipe) -> Iterator[pathlib.Path]:
    """The run's directory, made or resumed, locked for the block.

    A directory with the same resolved recipe is resumed, and one that differs in what MAY_CHANGE alone; a finished run
    or another recipe is refused.
    Raises RunRefused, or OSError where the directory cannot be written.
    """
    folder = root / recipe.run
    root.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)  # samples and weights are the user's; who shares them says so by chmod
    with locked(folder):
        _check(folder, recipe)
        (folder / "recipe.yaml").write_text(dump(recipe))
        yield folder


@contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """The run directory is this process's alone for the block. Raises RunRefused if another one has it."""
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunRefused(f"{folder} is in use by another process; wait for it or choose another run=NAME") from None
        yield


def _check(folder: pathlib.Path, recipe: Recipe) -> None:
    if (folder / "export").is_dir() and (folder / "summary.json").is_file():
        raise RunRefused(f"{folder} holds a finished run; choose another run=NAME or remove the directory")
    path = folder / "recipe.yaml"
    if not path.is_file():
        return
    before = yaml.safe_load(path.read_text())
    different = _differences(before, yaml.safe_load(dump(recipe)))
    changed = sorted(key for key in different if not key.startswith(MAY_CHANGE))
    if changed:
        raise RunRefused(
            f"{folder} was started with another recipe (different: {', '.join(changed[:8])}); resume it with the "
            f"recipe it has, {path}, or choose another run=NAME"
        )


def _differences(a: object, b: object, path: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
    elif a != b:
        yield path
