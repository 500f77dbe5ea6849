"""Where a run's numbers go: its own files, and the trackers that the recipe asks for.

Files are written at once, and raise DiskFull; trackers are told and nobody waits for them.
"""

import errno
import itertools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from penstock.recipes import Recipe
from penstock.system.disk import writing
from penstock.telemetry.tracked import tracked, tracked_evaluation
from services.coordinator.reporting.trackers import opening
from services.coordinator.reporting.trackers.tracker import Text
from services.coordinator.reporting.trackers.tracking import Tracking


class Sink(Protocol):
    """Takes a run's numbers; what it has already it may be given again."""

    @property
    def through(self) -> int:
        """The step up to which it has the numbers of all."""
        ...

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        """Those of an optimizer step, by their names of the register."""
        ...

    def evaluation(self, step: int, numbers: Mapping[str, float], texts: Sequence[Text]) -> None:
        """Those of an evaluation of version `step`, and some of its samples."""
        ...

    def end(self, state: str) -> None:
        """The run is over: done, stopped or failed."""
        ...


class JsonLines:
    """One object per step. Steps that are in the file already are not written again."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._have = set[int]()
        if path.exists():
            whole, _, torn = path.read_text().rpartition("\n")
            if torn:  # the process was killed in mid-write
                path.write_text(whole + "\n" if whole else "")
            self._have = {int(json.loads(line)["step"]) for line in whole.splitlines()}

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends the step's whole line, or nothing. Raises DiskFull."""
        if step in self._have:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}  # JSON has no NaN
        line = (json.dumps({"step": step, **finite}) + "\n").encode()
        with writing(self._path), self._path.open("ab", buffering=0) as file:
            before = file.tell()
            if file.write(line) != len(line):  # the last bytes of the disk
                file.truncate(before)
                raise OSError(errno.ENOSPC, "a part of the line was written")
        self._have.add(step)

    @property
    def through(self) -> int:
        """The step up to which all are in the file."""
        return next(step for step in itertools.count() if step + 1 not in self._have)


class Files:
    """metrics.jsonl and evaluations.jsonl."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._steps, self._evaluations = JsonLines(folder / "metrics.jsonl"), JsonLines(folder / "evaluations.jsonl")

    @property
    def through(self) -> int:
        return self._steps.through

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        self._steps.write(step, numbers)

    def evaluation(self, step: int, numbers: Mapping[str, float], texts: Sequence[Text]) -> None:
        self._evaluations.write(step, numbers)

    def end(self, state: str) -> None:
        pass  # every line is on the disk


class Tracked:
    """A tracker, told of numbers by the names that trackers have for them."""

    def __init__(self, tracking: Tracking) -> None:
        self.tracking = tracking

    @property
    def through(self) -> int:
        return self.tracking.through

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        self.tracking.step(step, {tracked(name): value for name, value in numbers.items()})

    def evaluation(self, step: int, numbers: Mapping[str, float], texts: Sequence[Text]) -> None:
        self.tracking.evaluation(step, {tracked_evaluation(name): value for name, value in numbers.items()}, texts)

    def end(self, state: str) -> None:
        self.tracking.end(state)


def sinks(folder: pathlib.Path, recipe: Recipe) -> list[Sink]:
    """The sinks of a run; to be closed."""
    return [Files(folder), *(Tracked(each) for each in opening.trackings(folder, recipe))]


def close(made: Sequence[Sink], within: float = opening.CLOSE_SECONDS) -> None:
    """Lets the trackers finish what they were told, `within` seconds at most."""
    opening.close([sink.tracking for sink in made if isinstance(sink, Tracked)], within)


def write_summary(path: pathlib.Path, summary: Mapping[str, Any]) -> None:
    """Writes summary.json atomically: whole, or as it was. Raises DiskFull."""
    temporary = path.with_suffix(".tmp")
    try:
        with writing(path):
            temporary.write_text(json.dumps(summary, indent=2) + "\n")
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
