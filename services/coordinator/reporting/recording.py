"""Writes a run's numbers as they come: every step once to every sink, and summary.json after it.

Invariant (`full_disk_test.py`): a full disk delays what is written and loses nothing; the run goes on meanwhile, with
the disk as its `problem`.
"""

import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.system.disk import DiskFull
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.reporting.sinks import Sink, write_summary

logger = logging.getLogger(__name__)


class Recorder:
    """`problem` says why nothing can be written at the moment; empty where nothing is in the way.

    Args:
        around: numbers that belong to a step beside its report's. summary: what summary.json says now.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        sinks: Sequence[Sink],
        around: Callable[[], Mapping[str, float]],
        summary: Callable[[], Mapping[str, Any]],
    ) -> None:
        self.problem = ""
        self._path, self._sinks, self._around, self._summary = folder / "summary.json", sinks, around, summary
        self._written = 0

    def write(self, reports: Mapping[int, pb.StepReport]) -> None:
        """Writes the steps that are not written yet, and what was held up before."""
        new = [step for step in sorted(reports) if step > self._written]
        if not new and not self.problem:
            return
        try:
            for step in new:
                numbers = {**reports[step].metrics, **self._around(), "time": reports[step].at.ToNanoseconds() / 1e9}
                for sink in self._sinks:
                    sink.write(step, numbers)
                self._written = step
            self.summarise()
            self.problem = ""
        except DiskFull as error:
            if not self.problem:
                logger.error("%s", error, extra={"step": self._written + 1})
            self.problem = str(error)

    def hold_up(self) -> None:
        """There is a summary to write: `write` is to be called until `problem` is empty."""
        self.problem = self.problem or "the summary is not written yet"

    def summarise(self) -> None:
        """Writes summary.json. Raises DiskFull."""
        write_summary(self._path, self._summary())
