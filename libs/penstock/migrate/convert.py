"""One conversion from the framework's name: its topics and table, then what the recipe still needs."""

from collections.abc import Callable, Mapping
from typing import Any

from penstock.migrate import nemo_rl, trl, verl
from penstock.migrate.carrying import Converted, Given, Made

FRAMEWORKS: Mapping[str, Callable[[Given, Made], None]] = {
    "nemo-rl": nemo_rl.convert,
    "trl": trl.convert,
    "verl": verl.convert,
}
"""By the name that the command takes."""

NEEDED = {
    "model.path": "a Hugging Face directory, or a name of the hub",
    "data.train": "a file, a directory, or org/name:split of the hub",
    "algorithm.steps": "steps of the run; epochs are not counted here",
}


def convert(framework: str, keys: Mapping[str, Any]) -> Converted:
    """The recipe that a configuration means. keys: as `reading.read` gives them. Raises KeyError for a framework that
    FRAMEWORKS does not have, and ValueError for values that it cannot have had itself."""
    given, made = Given(keys), Made()
    made.set("run", "migrated")
    FRAMEWORKS[framework](given, made)
    for path, what in NEEDED.items():
        if made.get(path) is None:
            made.left(path, f"is required and not in the configuration; write it ({what})")
    plays = made.get("algorithm.name") in (None, "grpo") or made.get("algorithm.preference.source") == "rollouts"
    if plays and made.get("environment.name") is None:
        made.left("environment.name", "is required and not in the configuration; write who scores (write-a-reward.md)")
    return Converted(made.recipe, tuple(made.said))
