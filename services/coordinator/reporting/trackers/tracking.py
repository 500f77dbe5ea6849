"""A tracker in a thread of its own, behind a bounded queue: nobody waits for it but the end of the process, and that a
few seconds at most.

    coordinator's loop → offer() → queue of MOST → the thread: open, step, evaluation, …, end

Invariants (test names): a tracker that hangs or raises costs the tracking alone; what it does not take is counted and
said once; what it has taken it is not told again, also by the next process.
"""

import contextlib
import dataclasses
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from services.coordinator.reporting.trackers.identity import Notes
from services.coordinator.reporting.trackers.tracker import INTERRUPTED, Text, Tracker

logger = logging.getLogger(__name__)
MOST = 4096  # items that wait; a step's is some kilobytes
_FILES = "metrics.jsonl and evaluations.jsonl"


@dataclasses.dataclass(frozen=True)
class _Item:
    step: int
    numbers: Mapping[str, float]
    texts: Sequence[Text] | None = None  # of an evaluation


class Tracking:
    """One tracker. `open` is called in the thread. `lost`: how much it was not told."""

    def __init__(self, name: str, notes: Notes, open_tracker: Callable[[], Tracker], most: int = MOST) -> None:
        self.name, self.lost = name, 0
        self._notes, self._open = notes, open_tracker
        self._queue: queue.Queue[_Item | str] = queue.Queue(most)
        self._ending: str | None = None
        self._failing = self._said = False
        self._thread = threading.Thread(target=self._run, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    @property
    def through(self) -> int:
        """The newest step that the tracker has."""
        return self._notes.step(self.name)

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step, unless the tracker has them; never waits."""
        if step > self._notes.step(self.name):
            self._offer(_Item(step, numbers))

    def evaluation(self, step: int, numbers: Mapping[str, float], texts: Sequence[Text]) -> None:
        """The numbers of an evaluation, unless the tracker has them; never waits."""
        if step not in self._notes.evaluations(self.name):
            self._offer(_Item(step, numbers, texts))

    def end(self, state: str) -> None:
        """The run is over; the first word stands. Never waits."""
        if self._ending is None:
            self._ending = state
            try:
                self._queue.put_nowait(state)
            except queue.Full:
                logger.warning("%s does not hear that the run is %s", self.name, state)

    def close(self, within: float) -> None:
        """Lets the tracker finish what it was told, for `within` seconds at most."""
        self.end(INTERRUPTED)
        self._thread.join(within)
        if self._thread.is_alive():
            logger.warning("%s has not ended within %.0f s and is left behind", self.name, within)
        self.lost += sum(isinstance(item, _Item) for item in self._left())
        if self.lost:
            logger.warning("%s lacks %d steps and evaluations; %s have them", self.name, self.lost, _FILES)

    def _left(self) -> Iterator[_Item | str]:
        """Takes what nobody will take any more."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._queue.get_nowait()

    def _offer(self, item: _Item) -> None:
        try:
            if self._thread.is_alive():
                self._queue.put_nowait(item)
                return
        except queue.Full:
            pass
        self._lose("it is not open, or too far behind")

    def _lose(self, why: str) -> None:
        self.lost += 1
        if not self._said:
            self._said = True
            logger.warning("%s does not get everything: %s; %s do", self.name, why, _FILES)

    def _run(self) -> None:
        try:
            tracker = self._open()
        except Exception as error:  # a boundary: these libraries raise what they like
            why = f"{type(error).__name__}: {error}"
            logger.warning("%s cannot be opened, and is not told anything: %s", self.name, why)
            return
        while not isinstance(item := self._queue.get(), str):
            self._take(tracker, item)
        try:
            tracker.end(item)
        except Exception as error:  # a boundary, as above
            logger.warning("%s was not ended: %s", self.name, error)

    def _take(self, tracker: Tracker, item: _Item) -> None:
        try:
            if item.texts is None:
                tracker.step(item.step, item.numbers)
                self._notes.took_step(self.name, item.step)
            else:
                tracker.evaluation(item.step, item.numbers, item.texts)
                self._notes.took_evaluation(self.name, item.step)
        except Exception as error:  # a boundary, as above
            if not self._failing:
                logger.warning("%s does not take step %d and maybe later ones: %s", self.name, item.step, error)
            self._failing = True
            self.lost += 1
        else:
            self._failing = False
