"""Writes a run's numbers as they come: every step and evaluation once to every sink, and summary.json after it.

Invariant (`full_disk_test.py`): a full disk delays what is written and loses nothing; the run goes on meanwhile, with
the disk as its `problem`.
"""

import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.ledger import Ledger
from penstock.system.disk import DiskFull
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.reporting.sinks import Sink, write_summary
from services.coordinator.reporting.trackers.tracker import Text

logger = logging.getLogger(__name__)


class Recorder:
    """`problem` says why nothing can be written at the moment; empty where nothing is in the way. `written`: the newest
    step that is.

    Args:
        around: numbers that belong to a step beside its report's. summary: what summary.json says now.
        texts: samples of the evaluation of a version, as far as they are at hand.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        sinks: Sequence[Sink],
        around: Callable[[], Mapping[str, float]],
        summary: Callable[[], Mapping[str, Any]],
        texts: Callable[[int], Sequence[Text]] = lambda step: (),
    ) -> None:
        self.problem = ""
        self._path, self._sinks, self._around, self._summary = folder / "summary.json", sinks, around, summary
        self._texts, self._over = texts, ""
        self.written, self._evaluated = 0, set[int]()

    def write(self, ledger: Ledger) -> None:
        """Writes the steps and evaluations that are not written yet, and what was held up before."""
        new = [step for step in sorted(ledger.reports) if step > self.written]
        evaluated = [step for step in sorted(ledger.evaluations) if step not in self._evaluated]
        if not new and not evaluated and not self.problem:
            return
        try:
            for step in new:
                self._write_step(ledger.reports[step])
                self.written = step
            for step in evaluated:
                self._write_evaluation(ledger.evaluations[step])
                self._evaluated.add(step)
            write_summary(self._path, self._summary())
            self.problem = ""
        except DiskFull as error:
            if not self.problem:
                logger.error("%s", error, extra={"step": self.written + 1})
            self.problem = str(error)
        else:
            self._tell_end()

    def hold_up(self) -> None:
        """There is a summary to write: `write` is to be called until `problem` is empty."""
        self.problem = self.problem or "the summary is not written yet"

    def over(self, state: str, ledger: Ledger) -> None:
        """The run is over: what is not written yet is written, and then every sink hears of it."""
        self._over = state
        self.hold_up()
        self.write(ledger)

    def _write_step(self, report: pb.StepReport) -> None:
        numbers = {**report.metrics, **self._around(), "time": report.at.ToNanoseconds() / 1e9}
        for sink in self._sinks:
            sink.step(report.step, numbers)

    def _write_evaluation(self, report: pb.EvaluationReport) -> None:
        numbers = {**report.metrics, "samples": float(report.samples), "time": report.at.ToNanoseconds() / 1e9}
        texts = self._texts(report.step)
        for sink in self._sinks:
            sink.evaluation(report.step, numbers, texts)

    def _tell_end(self) -> None:
        if self._over:
            for sink in self._sinks:
                sink.end(self._over)
