"""What a run goes on with, beside the weights, and the newest checkpoint that it can go on from."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from services.learner.checkpoints.directory import CheckpointError, DamagedCheckpoint, manifest_of, present

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """Where in the run's streams the weights are: every sample that is still needed lies behind `log_cursor`."""

    log_cursor: int = 0
    ledger_sequence: int = 0


@dataclass(frozen=True)
class Resume:
    """What a checkpoint's `extra` says.

    Attributes:
      step: the weights', and the number of the run's. epoch: of the learner that wrote it.
      metrics: by what it may be kept (see `retention`), averaged since the checkpoint before.
    """

    step: int = 0
    epoch: int = 0
    position: Position = Position()
    metrics: dict[str, float] = field(default_factory=dict)

    def extra(self) -> dict[str, Any]:
        """As JSON."""
        known = {"step": self.step, "epoch": self.epoch, **asdict(self.position)}
        return {**known, "metrics": self.metrics} if self.metrics else known

    @staticmethod
    def of(extra: dict[str, Any]) -> "Resume":
        """The inverse. Raises CheckpointError for what no learner wrote."""
        try:
            position = Position(extra["log_cursor"], extra["ledger_sequence"])
            return Resume(extra["step"], extra["epoch"], position, extra.get("metrics", {}))
        except KeyError as error:
            raise CheckpointError(f"a checkpoint of no run: its extra lacks {error}") from error


def resume_of(path: Path) -> Resume:
    """What a checkpoint was written with. Raises DamagedCheckpoint, CheckpointError."""
    return Resume.of(manifest_of(path).extra)


def load_newest(
    root: str | Path, load: Callable[[Path], dict[str, Any]], among: int | None = None
) -> tuple[int, dict[str, Any]] | None:
    """Tries `load(path) -> extra` on the newest checkpoint first; (step, extra), or None if there is none.

    A damaged one is reported as an error and the one before it is used, `among` the newest so many (older ones, kept
    for their metric, may need samples that the log does not hold any more).
    Raises CheckpointError if there are checkpoints but none is good: starting over silently would throw a run away.
    """
    candidates = present(root)[:among]
    for path in candidates:
        try:
            return int(path.name[5:]), load(path)
        except DamagedCheckpoint as error:
            log.error("checkpoint %s is damaged, using the one before it: %s", path, error)
    if candidates:
        raise CheckpointError(f"none of the {len(candidates)} newest checkpoints in {root} is intact")
    return None
