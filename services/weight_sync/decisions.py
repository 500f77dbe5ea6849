"""What was decided of versions, on disk before it counts: the file `lifecycle.json` beside them."""

import logging
import os
import pathlib
from collections.abc import Collection

from services.weight_sync.lifecycle import Lifecycle

logger = logging.getLogger(__name__)
LIFECYCLE = "lifecycle.json"


def read(directory: pathlib.Path, kept: Collection[int], tries: bool = False) -> Lifecycle:
    """What was decided of the kept versions. Where that is damaged nobody knows what was rejected, and all waits."""
    path = directory / LIFECYCLE
    try:
        return Lifecycle.load(path.read_text(), kept, tries)
    except FileNotFoundError:
        return Lifecycle.load(Lifecycle().dump(), kept, tries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.error("%s is damaged: no version is served until one is promoted: %s", path, error)
        life = Lifecycle(tries)
        life.rolled_back = True
        for step in kept:
            life.commit(step)
        return life


def write(directory: pathlib.Path, life: Lifecycle) -> None:
    """Writes it down, whole or not at all. Raises OSError."""
    path = directory / LIFECYCLE
    beside = path.with_suffix(".staging")
    with beside.open("w") as file:
        file.write(life.dump())
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
