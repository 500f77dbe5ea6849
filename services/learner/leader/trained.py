"""What a step was, and what is said of it in the ledger."""

import dataclasses
from collections.abc import Mapping, Sequence

from penstock.telemetry import metrics, steps
from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1.weights_pb2 import Probe
from services.learner.interface.step_result import StepResult
from services.learner.leader.preparation import Prepared
from services.learner.leader.status import Status

_step = metrics.gauge(metrics.STEP, "optimizer steps taken")
_step_seconds = metrics.histogram(metrics.STEP_SECONDS, "seconds per optimizer step")
_tokens = metrics.counter(metrics.TOKENS_TRAINED, "tokens trained on")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A step that was taken. Attributes:
    prepared: what it was trained on; None on every rank but 0.
    held_out: what held-out rows say of it, where that was measured.
    began, ended: time.monotonic() before the batch was sent to all ranks, and when the step was taken.
    probes: what the weights that it made say of a few samples, where versions are tried.
    """

    step: int
    prepared: Prepared | None
    result: StepResult
    held_out: Mapping[str, float]
    began: float
    ended: float
    probes: Sequence[Probe] = ()

    @property
    def seconds(self) -> float:
        """What the step took."""
        return self.ended - self.began


def report_of(trained: Trained, status: Status) -> pb.StepReport:
    """The step's report, on rank 0; also counted in this process's metrics."""
    assert trained.prepared is not None
    numbers = {**trained.prepared.metrics, **{steps.of_trainer(k): v for k, v in trained.result.metrics.items()}}
    numbers |= {f"rl.validation.{k}": v for k, v in trained.held_out.items()}
    numbers["rl.loss"] = trained.result.metrics["loss"]
    numbers["rl.train.seconds"] = trained.seconds
    # The first step does not count the start.
    numbers["rl.step.seconds"] = trained.ended - (status.step_ended or trained.began)
    status.step_ended = trained.ended
    _step.set(trained.step)
    _step_seconds.observe(trained.seconds)
    _tokens.inc(trained.prepared.metrics["rl.tokens.trained"])
    report = pb.StepReport(step=trained.step, metrics=numbers)
    report.version.epoch, report.version.step = status.epoch, trained.step
    report.at.GetCurrentTime()
    return report
