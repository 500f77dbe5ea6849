"""Saves beside training: the step loop copies its state and goes on; a thread writes it.

    begin ── copy ──► thread: write, fsync, digest ── all ranks agree ── rename ──► collect

The thread's collectives have a process group of their own (gloo, on the CPU), because those of two threads in one group
would meet in any order. What is saved is the copy: weights, optimizer, random state, and the caller's `extra` with the
log cursor and the ledger position, all of one moment between two steps.

Invariants (test names): at most one save is under way; what is saved is the state at `begin`, whatever is trained
meanwhile; a failed save is reported on every rank and leaves the checkpoint before it the newest; killed in a save, the
run goes on from the one before.
"""

import datetime
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from penstock.telemetry import metrics
from services.learner.checkpoints import directory as checkpoints
from services.learner.interface.errors import CannotGoOn
from services.learner.interface.snapshot import Snapshot

log = logging.getLogger(__name__)
_failures = metrics.counter(metrics.CHECKPOINT_FAILURES, "checkpoints that could not be saved")

SAVE_SECONDS = 1800.0
FAILURES_ALLOWED = 2
"""In a row. One more and the run ends: all since the last checkpoint is at stake."""


def copied(state: Any) -> Any:
    """`state` with every tensor copied to the CPU, so that training may change the original."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    return state


class BackgroundWrite:
    """One rank's saves; the constructor is a collective, and so is every `begin`.

    background: False makes `begin` wait for the disk, and copies nothing.
    """

    def __init__(self, root: Path, background: bool = True) -> None:
        self._root, self._background = root, background
        self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=SAVE_SECONDS))
        self._thread: threading.Thread | None = None
        self._step: int | None = None
        self._error: BaseException | None = None
        self._failed = 0

    @property
    def busy(self) -> bool:
        """Whether a save is under way on this rank."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def pending(self) -> int | None:
        """The step whose save was begun and not collected yet."""
        return self._step

    def begin(self, step: int, snapshot: Callable[[], Snapshot], extra: Mapping[str, Any]) -> None:
        """Begins to save `step`; the outcome of the one before must have been collected."""
        if self._step is not None:
            raise RuntimeError(f"step {self._step} is still being saved")
        state = snapshot()
        self._step, self._error = step, None
        if not self._background:
            self._write(step, state, extra)
            return
        state = Snapshot(copied(state.shards), state.model, state.layout)
        self._thread = threading.Thread(target=self._write, args=(step, state, dict(extra)), name="saver", daemon=True)
        self._thread.start()

    def collect(self, wait: bool = False) -> int | None:
        """The step whose save has ended since the last call, if it is on the disk; `wait`: waits for its end.

        A save that failed is logged as an error and gives None; training goes on, the checkpoint before it stands.
        Raises CannotGoOn after FAILURES_ALLOWED + 1 failures in a row.
        """
        if self._step is None or (self.busy and not wait):
            return None
        if self._thread is not None:
            self._thread.join()
        step, error, self._step, self._thread = self._step, self._error, None, None
        if error is None:
            self._failed = 0
            return step
        self._failed += 1
        _failures.inc()
        log.error("step %d is not saved, the checkpoint before it stands: %s", step, error)
        if self._failed > FAILURES_ALLOWED:
            raise CannotGoOn(f"{self._failed} checkpoints in a row could not be saved: {error}") from error
        return None

    def _write(self, step: int, state: Snapshot, extra: Mapping[str, Any]) -> None:
        path = checkpoints.path_of(self._root, step)
        try:
            checkpoints.write(path, state, extra, self._group)
        except Exception as error:  # the thread's boundary: kept for `collect`
            self._error = error
