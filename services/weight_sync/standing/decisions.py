"""What was decided of versions, on disk before it counts: the file `lifecycle.json` beside them."""

import json
import logging
import os
import pathlib
from collections.abc import Collection

from services.weight_sync.standing.lifecycle import Lifecycle

logger = logging.getLogger(__name__)
LIFECYCLE = "lifecycle.json"


def read(directory: pathlib.Path, kept: Collection[int], tries: bool = False) -> Lifecycle:
    """What was decided of the kept versions. Where that is damaged nobody knows what was rejected, and all waits.

    What the file does not name was committed while versions were tried, or were not, as the file says: where that
    changes it is written before anything is committed. Raises OSError where it cannot be.
    """
    path = directory / LIFECYCLE
    try:
        text = path.read_text() if path.exists() else Lifecycle().dump()
        life = Lifecycle.load(text, kept, tries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.error("%s is damaged: no version is served until one is promoted: %s", path, error)
        return Lifecycle.unknown(kept, tries, f"{LIFECYCLE} was damaged: it may have been rejected")
    if json.loads(text).get("tries") is not tries:
        write(directory, life)
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
