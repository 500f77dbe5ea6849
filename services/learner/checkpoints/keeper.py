"""The run's checkpoints on one rank: what goes into one beside the weights, and what may go when one is on the disk.

One atomic unit: weights, optimizer, random state, log cursor, ledger position, all of the moment between two steps at
which the save began. Only when it is on the disk are older ones removed and the log trimmed behind the oldest from
which the run could go on.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch.distributed as dist

from penstock.recipes.sections import Checkpoints
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints import retention
from services.learner.checkpoints.actor_critic import Saved
from services.learner.checkpoints.background import BackgroundWrite
from services.learner.checkpoints.measured import Measured
from services.learner.checkpoints.resume import Position, Resume, resume_of

logger = logging.getLogger(__name__)


class Positions(Protocol):
    """Who knows the streams that belong to the weights; on every rank but 0 it knows nothing, and trims nothing."""

    def position(self) -> Position: ...

    def trim(self, before: int) -> None: ...


class Keeper:
    """keep_log: never trim the log behind checkpoints. saved: told the step of each that is on the disk. measured: what
    they are kept by."""

    def __init__(
        self,
        root: Path,
        settings: Checkpoints,
        what: Saved,
        positions: Positions,
        resume: Resume,
        keep_log: bool,
        saved: Callable[[int], None],
        measured: Measured,
    ) -> None:
        """resume: what the weights were loaded with; its epoch is the present one."""
        self._root, self._settings, self._what = root, settings, what
        self._positions, self._epoch, self._keep_log, self._tell = positions, resume.epoch, keep_log, saved
        self._write = BackgroundWrite(root, settings.background)
        self._begun = self._saved = resume.step or None
        self._measured = measured
        if dist.get_rank() == 0:
            self._trim()  # the recipe may have kept the log until now

    @property
    def busy(self) -> bool:
        """Whether a save is under way: the next one waits, training does not."""
        return self._write.busy

    def trained(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a step. Raises as Measured."""
        self._measured.take(step, metrics)

    def begin(self, step: int) -> None:
        """Begins to save the state after `step`; a collective. Does nothing for one that is saved or being saved."""
        if step == 0 or step == self._begun:
            return
        self.collect(wait=True)  # over on rank 0, and so all but over here
        resume = Resume(step, self._epoch, self._positions.position(), self._measured.mean())
        self._write.begin(step, self._what.snapshot, resume.extra())
        self._begun = step

    def collect(self, wait: bool = False) -> None:
        """Takes note of a save that has ended, and tidies up behind it. Raises CannotGoOn if too many have failed."""
        step = self._write.collect(wait)
        if step is None:
            if self._write.pending is None:
                self._begun = self._saved  # it failed, or there was none
            return
        self._saved = step
        self._tell(step)
        logger.info("saved", extra={"step": step, "path": str(checkpoints.path_of(self._root, step))})
        if dist.get_rank() == 0:
            retention.prune(self._root, self._settings)
            self._trim()

    def _trim(self) -> None:
        """Gives the log room behind the oldest checkpoint that the run could go on from."""
        kept = checkpoints.present(self._root)[: self._settings.keep]
        if not kept or self._keep_log:
            return
        try:
            self._positions.trim(resume_of(kept[-1]).position.log_cursor)
        except checkpoints.DamagedCheckpoint as error:
            logger.error("the log is not trimmed: %s", error)

    def finish(self, step: int) -> None:
        """Saves the last state and waits for it; a collective."""
        self.begin(step)
        self.collect(wait=True)
