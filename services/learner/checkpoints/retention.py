"""Which checkpoints stay: the newest, to go on from, and the best, to go back to.

Invariant: what a run needs to go on is among the newest `keep`; the log may be trimmed behind the oldest of those. One
that is kept for its metric alone is a model to export or to start another run from.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from penstock.recipes.sections import Checkpoints
from services.learner.checkpoints.directory import CheckpointError, manifest_of, present


def value_of(path: Path, metric: str) -> float | None:
    """The metric that a checkpoint was saved with; None if it has none or cannot be read."""
    try:
        value = manifest_of(path).extra.get("metrics", {}).get(metric)
    except CheckpointError:
        return None
    return None if value is None else float(value)


def kept(paths: Sequence[Path], settings: Checkpoints) -> list[Path]:
    """Of `paths`, newest first: those that stay, in the same order. Of equally good ones the newer is better."""
    valued = [
        (value, -i, path) for i, path in enumerate(paths) if (value := value_of(path, settings.metric)) is not None
    ]
    sign = 1 if settings.better == "larger" else -1
    best = sorted(valued, key=lambda v: (sign * v[0], v[1]), reverse=True)[: settings.keep_best]
    stay = {*paths[: settings.keep], *(path for _, _, path in best)}
    return [path for path in paths if path in stay]


def prune(root: str | Path, settings: Checkpoints) -> list[Path]:
    """Removes the others, and what killed saves left behind; returns the former. For rank 0, while nobody
    saves."""
    for leftover in Path(root).glob(".step-*"):
        shutil.rmtree(leftover)
    paths = present(root)
    stay = set(kept(paths, settings)) if len(paths) > settings.keep else set(paths)
    old = [path for path in paths if path not in stay]
    for path in old:
        hidden = path.parent / f".{path.name}.removed"
        path.rename(hidden)  # at once, so that nobody sees half of one
        shutil.rmtree(hidden)
    return old
