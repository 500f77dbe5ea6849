"""The run's checkpoints on one rank: what goes into one beside the weights, and what may go when one is on the disk.

One atomic unit: weights, optimizer, random state, log cursor, ledger position, all of the moment between two steps at
which the save began. Only when it is on the disk are older ones removed and the log trimmed behind the oldest from
which the run could go on.
"""

import logging
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.recipes.sections import Checkpoints
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints import retention
from services.learner.checkpoints.actor_critic import Saved
from services.learner.checkpoints.background import Saver
from services.learner.interface.errors import CannotGoOn
from services.learner.leader.leader import Leader
from services.learner.leader.server import State, Status

logger = logging.getLogger(__name__)


class Keeper:
    """`leader` is None on every rank but 0, which alone knows the log and removes files.

    keep_log: never trim the log behind checkpoints.
    """

    def __init__(
        self,
        root: Path,
        settings: Checkpoints,
        saved: Saved,
        status: Status,
        leader: Leader | None,
        keep_log: bool,
    ) -> None:
        self._root, self._settings, self._saved = root, settings, saved
        self._status, self._leader, self._keep_log = status, leader, keep_log
        self._saver = Saver(root, settings.background)
        self._begun = status.checkpoint_step
        self._values: list[float] = []

    @property
    def busy(self) -> bool:
        """Whether a save is under way: the next one waits, training does not."""
        return self._saver.busy

    def trained(self, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a step (rank 0). Raises CannotGoOn if they lack the one that checkpoints are kept by."""
        if self._settings.metric in metrics:
            self._values.append(metrics[self._settings.metric])
        elif self._settings.keep_best:
            raise CannotGoOn(
                f"learner.checkpoints.metric: {self._settings.metric!r} is no metric of a step; "
                f"there are {', '.join(sorted(metrics))}"
            )

    def begin(self, step: int) -> None:
        """Begins to save the state after `step`; a collective. Does nothing for one that is saved or being saved."""
        if step == 0 or step == self._begun:
            return
        self.collect(wait=True)  # over on rank 0, and so all but over here
        self._status.state = State.STATE_SAVING
        self._saver.begin(step, self._saved.snapshot, self._extra(step))
        self._begun = step
        self._values.clear()

    def collect(self, wait: bool = False) -> None:
        """Takes note of a save that has ended, and tidies up behind it. Raises CannotGoOn if too many have failed."""
        step = self._saver.collect(wait)
        if step is None:
            if self._saver.pending is None:
                self._begun = self._status.checkpoint_step  # it failed, or there was none
            return
        self._status.checkpoint_step = step
        logger.info("saved", extra={"step": step, "path": str(checkpoints.path_of(self._root, step))})
        if self._leader is not None:
            retention.prune(self._root, self._settings)
            if not self._keep_log:
                oldest = checkpoints.present(self._root)[: self._settings.keep][-1]
                self._leader.trim_log(checkpoints.extra_of(oldest)["log_cursor"])

    def finish(self, step: int) -> None:
        """Saves the last state and waits for it; a collective."""
        self.begin(step)
        self.collect(wait=True)

    def _extra(self, step: int) -> dict[str, Any]:
        extra: dict[str, Any] = {"step": step, "epoch": self._status.epoch, "log_cursor": 0, "ledger_sequence": 0}
        if self._leader is not None:
            extra["log_cursor"] = self._leader.cursor()
            extra["ledger_sequence"] = self._leader.feed.ledger.sequence
            if self._values:
                extra["metrics"] = {self._settings.metric: statistics.fmean(self._values)}
        return extra
