"""What a tracker is told of a run, and what it must do; the libraries are behind it.

A tracker is opened, used and ended by one thread (`tracking.Tracking`), may take as long as it likes and raise what it
likes. It is told everything once, as far as the run's directory knows, also over restarts of the coordinator.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

DONE, STOPPED, FAILED, INTERRUPTED = "done", "stopped", "failed", "interrupted"


@dataclasses.dataclass(frozen=True)
class About:
    """A run as trackers name it.

    id: unique among all runs of everybody; the same over resumption. recipe: resolved, as JSON has it.
    links: paths of the run directory's parts by what they are.
    """

    id: str
    name: str
    recipe: Mapping[str, Any]
    tags: Sequence[str]
    links: Mapping[str, str]

    def settings(self) -> dict[str, str]:
        """The recipe flat: key.path -> value; lists and empty sections as JSON."""
        return dict(_flat("", self.recipe))


@dataclasses.dataclass(frozen=True)
class Text:
    """A sample of an evaluation as people read it; no reward where it failed."""

    task: str
    prompt: str
    completion: str
    reward: float | None

    @staticmethod
    def columns() -> list[str]:
        """The table's head."""
        return [field.name for field in dataclasses.fields(Text)]


class Tracker(Protocol):
    """One run in one tracker's library. Names of numbers are those of `penstock.telemetry.tracked`."""

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of an optimizer step."""
        ...

    def evaluation(self, step: int, numbers: Mapping[str, float], texts: Sequence[Text]) -> None:
        """The numbers of an evaluation of version `step`, which may be older than the newest step; some samples."""
        ...

    def end(self, state: str) -> None:
        """The run is done, stopped or failed; or this process ends and another may go on with it (interrupted)."""
        ...


def _flat(path: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [pair for key, each in value.items() for pair in _flat(f"{path}.{key}" if path else str(key), each)]
    return [(path, value if isinstance(value, str) else json.dumps(value))]
