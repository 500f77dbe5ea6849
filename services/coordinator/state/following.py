"""What a coordinator knows of its run, folded from the ledger and the tail of the log, and a way to wait for change.

Nothing here is decided: `Following` only reads. Admission, evaluation and closing look at it and wait on it. None of
them decides on a prefix of the ledger: who decides waits for `current` first.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from penstock.bus import Bus, Entry, RunNames, last_entry, load_payload, read, stream_state
from penstock.ledger import Fold, Ledger
from penstock.rules.quarantine import BadEntry, Quarantine
from penstock.showing.reader import RECENT
from penstock.snapshots import fold_up_to, newest
from penstock.telemetry.waits import progress, waiting
from penstock.trajectories import read_sample, refused, sample_key
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.state.log_tail import LogTail

FOLD_SECONDS = 600.0
Sample = tuple[str, int]
"""By its group and its index there."""
TICK_SECONDS = 1.0  # those who wait for change look this often at what announces none


class Following:
    """The two streams of a run as they grow.

    Attributes:
        ledger: every decision so far. log: the newest samples.
        quarantine: what of the other streams was set aside (the ledger has its own).
        snapshot: the entry of the ledger that it began behind, 0 for none.
        evaluated: samples of evaluations by (group, index), as the log brought them: those that somebody waits for.
    """

    def __init__(self, bus: Bus, names: RunNames) -> None:
        self.bus, self.names = bus, names
        self.ledger = Ledger()
        self.quarantine = Quarantine()
        self.log = LogTail()
        self.evaluated: dict[Sample, pb.Trajectory] = {}
        self._awaited = Counter[Sample]()
        self.changes = self.snapshot = 0
        self._changed = asyncio.Condition()

    async def restore(self, folds: Mapping[str, Fold], step: int) -> None:
        """Folds the ledger up to its present end, from the newest snapshot on, before anything else is done.

        folds: who takes up the rest of the snapshot. step: reports behind it must not be forgotten: they are not in the
        run's files.
        """
        last = await self._end()
        snapshot = await newest(self.bus, self.names, last, folds=folds, step=step)
        if snapshot is not None:
            self.ledger.become(snapshot)
            self.snapshot = snapshot.sequence
        with waiting(f"ledger up to {last}", on="nats", deadline=FOLD_SECONDS):
            async with asyncio.timeout(FOLD_SECONDS):
                await fold_up_to(self.bus, self.names, self.ledger, last)

    async def current(self) -> None:
        """Waits until the ledger is folded up to what was its end when this was called."""
        last = await self._end()
        if self.ledger.sequence < last:
            with waiting(f"ledger up to {last}", on="nats", deadline=FOLD_SECONDS):
                async with asyncio.timeout(FOLD_SECONDS):
                    await self.until(lambda: self.ledger.sequence >= last)

    async def follow_ledger(self, moved: Callable[[], None]) -> None:
        """Folds what comes after; `moved` is called after every entry."""
        async for entry in read(self.bus, self.names.ledger, after=self.ledger.sequence):
            self.ledger.apply(entry.subject, entry.payload, entry.sequence)
            moved()
            await self.notify()
            progress()

    async def follow_log(self) -> None:
        """Shows what comes into the log, from its last RECENT entries on."""
        state = await stream_state(self.bus, self.names.log)
        async for entry in read(self.bus, self.names.log, after=max(0, state.last_sequence - RECENT)):
            t = await self._sample(entry)
            if t is None:
                continue
            self.log.add(t)
            if (t.group, t.index) in self._awaited:
                self.evaluated[t.group, t.index] = t
                await self.notify()

    @contextmanager
    def awaiting(self, samples: Collection[Sample]) -> Iterator[None]:
        """Keeps what the log brings of these samples of evaluations in `evaluated`, for the block."""
        self._awaited.update(samples)
        try:
            yield
        finally:
            self._awaited -= Counter(samples)
            for sample in samples:
                if sample not in self._awaited:
                    self.evaluated.pop(sample, None)

    async def find_evaluated(self, group: str, index: int) -> None:
        """Takes an awaited sample that ended before this process looked: an evaluation goes on over restarts."""
        if (group, index) not in self.evaluated:
            entry = await last_entry(self.bus, self.names.log, self.names.log_subject(group, index))
            t = await self._sample(entry) if entry is not None else None
            if t is not None:
                self.evaluated[group, index] = t

    async def _sample(self, entry: Entry) -> pb.Trajectory | None:
        """The sample of a log entry; of one that is set aside, the end that it stands for, if it stands for any."""
        try:
            return read_sample(self.names, entry.subject, await load_payload(self.bus, self.names, entry.payload))
        except BadEntry as bad:
            self.quarantine.add("log", entry.subject, entry.sequence, bad)
            try:
                return refused(self.names, *sample_key(self.names, entry.subject), bad)
            except BadEntry:
                return None

    async def changed(self, seen: int, within: float) -> int:
        """Waits until something changed since `seen`, at most `within` seconds; gives the number to pass next time."""
        async with self._changed:
            try:
                async with asyncio.timeout(within):
                    await self._changed.wait_for(lambda: self.changes != seen)
            except TimeoutError:
                return seen
        return self.changes

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition` holds; it is looked at whenever something changed."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def notify(self) -> None:
        """Something changed that is not in the streams."""
        self.changes += 1
        async with self._changed:
            self._changed.notify_all()

    async def _end(self) -> int:
        return (await stream_state(self.bus, self.names.ledger)).last_sequence
