"""What summary.json adds up over the steps of a run: a fold over their reports, in bounded memory."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from penstock.telemetry import steps
from penstock.trajectory.v1 import trajectory_pb2 as pb

ENDS = 5  # steps whose rewards stand for the beginning, and for the end, of a run


@dataclasses.dataclass
class Totals:
    """Folds step reports, each once and in order.

    Attributes:
        seen: the newest step. steps: how many. began, ended: Unix times of the first and the newest report.
        seconds, training: of all steps, and of their training, in seconds. generated, trained: tokens.
        first, last: mean rewards of the ENDS first and newest steps that have one.
        staleness, stalest: the sum of the steps' means, and the largest. failed: failed members of batches by kind.
    """

    seen: int = 0
    steps: int = 0
    began: float | None = None
    ended: float | None = None
    seconds: float = 0.0
    training: float = 0.0
    generated: float = 0.0
    trained: float = 0.0
    first: list[float] = dataclasses.field(default_factory=list)
    last: list[float] = dataclasses.field(default_factory=list)
    staleness: float = 0.0
    stalest: float = 0.0
    failed: Counter[str] = dataclasses.field(default_factory=Counter)

    def see(self, reports: Mapping[int, pb.StepReport]) -> None:
        """Takes the reports that are new."""
        for step in sorted(s for s in reports if s > self.seen):
            self._add(reports[step])
            self.seen = step

    def state(self) -> Any:
        """For a snapshot of the ledger."""
        return vars(self) | {"failed": dict(self.failed)}

    def restore(self, state: Any) -> None:
        """Takes up `state`."""
        vars(self).update(vars(Totals(**(state | {"failed": Counter(state["failed"])}))))

    def _add(self, report: pb.StepReport) -> None:
        metrics, at = report.metrics, report.at.ToNanoseconds() / 1e9
        self.steps += 1
        self.began, self.ended = min(self.began or at, at), max(self.ended or at, at)
        self.seconds += metrics.get(steps.STEP_SECONDS, 0.0)
        self.training += metrics.get(steps.TRAIN_SECONDS, 0.0)
        self.generated += metrics.get(steps.TOKENS_GENERATED, 0.0)
        self.trained += metrics.get(steps.TOKENS_TRAINED, 0.0)
        self.staleness += metrics.get(steps.STALENESS_MEAN, 0.0)
        self.stalest = max(self.stalest, metrics.get(steps.STALENESS_MAX, 0.0))
        if steps.REWARD_MEAN in metrics:
            self.first = [*self.first, metrics[steps.REWARD_MEAN]][:ENDS]
            self.last = [*self.last, metrics[steps.REWARD_MEAN]][-ENDS:]
        for name, count in steps.members(steps.SAMPLES_FAILED, metrics).items():
            kind = name.removeprefix(steps.member(steps.SAMPLES_FAILED, "")).upper()
            self.failed["FAILURE_" + kind] += int(count)
