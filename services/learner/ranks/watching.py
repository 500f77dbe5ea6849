"""Every rank watches every other: one that shows no sign of life is named and ended, before a collective waits for it.

    each rank, each second    a thread notes for the others: alive/<rank> = count, place, process
    a count stands still for `hung_seconds`    its rank is named, and killed if it is on this host; this rank ends too
    a collective fails    its rank asks the others where they are, waits a moment, and says so as it ends

A dead rank is torchrun's business, and its peers' sockets close. What neither sees is a rank that is stopped (SIGSTOP,
a machine that swaps, a frozen virtual machine) or stuck outside a collective: its peers wait in theirs. The first is
seen here within `hung_seconds`, the second when the collective's time is up; both are named.

Invariant: a verdict needs `hung_seconds` of this rank's own attention. One that was itself away (stopped with the whole
group and continued) starts counting anew, so freezing a job and thawing it harms nothing.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from penstock.system import exits
from services.learner.ranks.meeting import Notes

log = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0


class RankHung(RuntimeError):
    """Another rank shows no sign of life; the message names it and where it was."""


def leave(error: BaseException, code: int) -> None:
    """Ends this process at once with the error for torchrun's agent, and without a Python farewell: a thread may be in
    a collective that nothing can wake, and a process that takes long to end looks as if it hung."""
    get_error_handler().record_exception(error)
    sys.stderr.flush()
    os._exit(code)


class Watch:
    """One rank's thread. The constructor is a collective.

    notes: where the ranks tell each other; nothing else is noted there.
    """

    def __init__(self, notes: Notes, hung_seconds: float) -> None:
        self._notes = notes
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._hung_seconds = hung_seconds
        self._interval = min(1.0, hung_seconds / 10)
        self._place = "starting"
        self._main = threading.current_thread().ident or 0
        self._beats = 0
        self._over = threading.Event()
        self._beat()
        dist.barrier()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def at(self, place: str) -> None:
        """Says what this rank does now, for the words of others."""
        self._place = place

    def stop(self) -> None:
        """Ends the thread, before the rank ends well: a rank that has ended shows no sign of life either."""
        self._over.set()
        self._thread.join()

    def whereabouts(self) -> str:
        """Where the other ranks are, one sentence each, for the words of one whose collective failed."""
        self._notes.set("asked", "1")
        found: dict[int, str] = {}
        end = time.monotonic() + ANSWER_SECONDS
        while len(found) < self._world - 1 and time.monotonic() < end:
            for rank in range(self._world):
                if rank != self._rank and rank not in found and self._notes.check([f"at/{rank}"]):
                    found[rank] = self._notes.get(f"at/{rank}").decode()
            self._over.wait(0.1)
        said = [f"rank {r} {found.get(r, 'does not answer')}" for r in range(self._world) if r != self._rank]
        return "; ".join(said)

    def _beat(self) -> None:
        self._beats += 1
        beat = {"count": self._beats, "place": self._place, "pid": os.getpid(), "host": socket.gethostname()}
        self._notes.set(f"alive/{self._rank}", json.dumps(beat))

    def _watch(self) -> None:
        others = [rank for rank in range(self._world) if rank != self._rank]
        counts, changed = dict.fromkeys(others, 0), dict.fromkeys(others, time.monotonic())
        answered, looked, read = False, time.monotonic(), time.monotonic()
        while not self._over.wait(self._interval):
            now = time.monotonic()
            if now - looked > self._hung_seconds / 2:
                changed, read = dict.fromkeys(others, now), now  # this rank was away itself
            looked = now
            try:
                self._beat()
                beats = {r: json.loads(b) for r, b in zip(others, self._read(others), strict=True)}
                if not answered and self._notes.check(["asked"]):
                    answered = True
                    self._notes.set(f"at/{self._rank}", f"is at {self._place}, in {self._stack()}")
            except (RuntimeError, OSError) as error:  # the notes': its host is gone, or too slow to tell
                log.warning("the notes of the ranks cannot be read: %s", error)
                if time.monotonic() - read > self._hung_seconds:
                    lost = f"the ranks' notes could not be read for {self._hung_seconds:g} s: {error}"
                    leave(RankHung(lost), exits.RANK_LOST)
                continue
            read = time.monotonic()
            for rank, beat in beats.items():
                if beat["count"] != counts[rank]:
                    counts[rank], changed[rank] = beat["count"], now
                elif now - changed[rank] > self._hung_seconds:
                    self._lost(rank, beat)
                    return

    def _read(self, ranks: list[int]) -> list[bytes]:
        values: list[bytes] = self._notes.multi_get([f"alive/{rank}" for rank in ranks])
        return values

    def _lost(self, rank: int, beat: dict[str, Any]) -> None:
        here = beat["host"] == socket.gethostname()
        error = RankHung(
            f"rank {rank} (process {beat['pid']} on {beat['host']}{_state(beat['pid']) if here else ''}) has shown no "
            f"sign of life for {self._hung_seconds:g} s; it was at {beat['place']}"
        )
        log.error("%s; the group ends", error)
        if here:
            try:
                os.kill(beat["pid"], signal.SIGKILL)  # SIGTERM would not reach a stopped process
            except ProcessLookupError:
                log.info("process %d is gone already", beat["pid"])
        leave(error, exits.RANK_LOST)

    def _stack(self) -> str:
        """The innermost frames of the main thread."""
        frame = sys._current_frames().get(self._main)
        frames = traceback.extract_stack(frame)[-4:] if frame is not None else []
        return " < ".join(f"{f.name} ({Path(f.filename).name}:{f.lineno})" for f in reversed(frames))


def _state(pid: int) -> str:
    """What the kernel says of a process of this host, e.g. ", stopped"."""
    words = {"T": ", stopped", "t": ", held by a debugger", "D": ", in an uninterruptible wait", "Z": ", dead"}
    try:
        return words.get(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0], "")
    except OSError:
        return ", gone"
