"""Rank 0's eyes: the run's two streams, folded as they come.

ledger --fold--> Ledger ---.
log ----decode--> Assembly-+--> whoever waits for a change

Entries come in pieces, and a piece may end anywhere: just before the record of the batch that a learner is about to
form again. So nobody decides on a prefix: whoever decides waits for `current` first.
"""

import asyncio
from collections.abc import Callable

from penstock.bus import Bus, Entry, RunNames, load_payload, read, stream_state
from penstock.ledger import Ledger, check_against_admission, explained
from penstock.rules.quarantine import BadEntry, Quarantine
from penstock.snapshots import newest
from penstock.telemetry.waits import waiting
from penstock.trajectories import read_sample, refused, sample_key
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.policy import Takes
from services.learner.leader.assembly import Assembly
from services.learner.leader.usable import check_takes, without_unread

FOLD_SECONDS = 600.0


class Following:
    """The ledger, and the samples that the weights have not seen. All coroutines run on one loop.

    Attributes: ledger; assembly; log_sequence, the last entry of the log that was read; quarantine, what of the log was
    set aside.
    """

    def __init__(
        self, bus: Bus, names: RunNames, groups_per_step: int, trained_step: int, log_cursor: int, takes: Takes
    ) -> None:
        """trained_step: the step the weights are at. log_cursor: log sequence to read after (both from the
        checkpoint). takes: what the weights can be trained on."""
        self._bus, self._names, self.log_sequence = bus, names, log_cursor
        self.ledger, self.quarantine = Ledger(), Quarantine()
        self._takes, self._trained_step = takes, trained_step
        self.assembly = Assembly(self.ledger, groups_per_step, trained_step)
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Follows both streams until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_ledger())
            tasks.create_task(self._follow_log())

    async def until(self, reached: Callable[[], bool]) -> None:
        """Waits until `reached` says so; it is asked whenever a stream has moved or somebody decided."""
        async with self._changed:
            await self._changed.wait_for(reached)

    async def caught_up(self, sequence: int) -> None:
        """Waits until the ledger is folded up to `sequence`."""
        await self.until(lambda: self.ledger.sequence >= sequence)

    async def current(self) -> None:
        """Waits until the ledger is folded up to what was its end when this was called."""
        last = (await stream_state(self._bus, self._names.ledger)).last_sequence
        if self.ledger.sequence < last:
            with waiting(f"ledger up to {last}", on="nats", deadline=FOLD_SECONDS):
                async with asyncio.timeout(FOLD_SECONDS):
                    await self.caught_up(last)

    async def log_current(self) -> None:
        """Waits until the log is read up to what was its end when this was called."""
        last = (await stream_state(self._bus, self._names.log)).last_sequence
        with waiting(f"log up to {last}", on="nats", deadline=FOLD_SECONDS):
            async with asyncio.timeout(FOLD_SECONDS):
                await self.until(lambda: self.log_sequence >= last)

    async def decided(self) -> None:
        """Wakes those who wait: something was decided."""
        async with self._changed:
            self._changed.notify_all()

    def cursor(self) -> int:
        """The log position that belongs to the current weights (see Assembly.cursor)."""
        return self.assembly.cursor(self.log_sequence)

    async def _follow_ledger(self) -> None:
        last = (await stream_state(self._bus, self._names.ledger)).last_sequence
        snapshot = await newest(self._bus, self._names, last, step=self._trained_step)
        if snapshot is not None:
            self.ledger.become(snapshot)
            await self.decided()
        async for entry in read(self._bus, self._names.ledger, after=self.ledger.sequence):
            self.ledger.apply(entry.subject, entry.payload, entry.sequence)
            await self.decided()

    async def _follow_log(self) -> None:
        async for entry in read(self._bus, self._names.log, after=self.log_sequence):
            await self._take(entry)
            self.log_sequence = entry.sequence
            await self.decided()

    async def _take(self, entry: Entry) -> None:
        """Takes a sample, or sets its entry aside; then the sample it stood for has ended as FAILED{invalid}."""
        try:
            t = read_sample(self._names, entry.subject, await load_payload(self._bus, self._names, entry.payload))
            if t.kind != pb.TASK_KIND_TRAIN:
                return
            if not explained(t, self.ledger):
                await self.current()
            check_against_admission(t, self.ledger)
            if t.outcome.status != pb.Outcome.STATUS_FAILED:
                check_takes(t, self._takes)
        except BadEntry as bad:
            self.quarantine.add("log", entry.subject, entry.sequence, bad)
            await self._end(entry, bad)
        else:
            self.assembly.add(without_unread(t, self._takes), entry.sequence)

    async def _end(self, entry: Entry, bad: BadEntry) -> None:
        """Ends the sample that an entry's subject names, if there is one."""
        try:
            group, index = sample_key(self._names, entry.subject)
        except BadEntry:
            return
        if not self.ledger.knows(group):
            await self.current()
        if group in self.ledger.groups:
            self.assembly.add(refused(self._names, group, index, bad), entry.sequence, quarantined=True)
