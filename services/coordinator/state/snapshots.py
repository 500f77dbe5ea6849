"""Keeps the coordinator's memory, and the time that it or a learner takes to start, from growing with the run.

What is forgotten is behind the learner's checkpoint, is written to the run's files, and is KEPT steps old: those that
ask for it read the stream (see penstock.showing.history).
"""

from collections.abc import Callable, Mapping

from penstock.bus import Bus, RunNames
from penstock.ledger import Fold
from penstock.snapshots import KEPT, store
from services.coordinator.state.following import Following
from services.coordinator.state.peers import Peers

EVERY = 5000
"""Entries of the ledger between two snapshots."""


class Snapshots:
    """Forgets, and writes a snapshot, every EVERY entries.

    folds: who else folds the ledger, by name. written: the newest step that is in the run's files.
    """

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        following: Following,
        peers: Peers,
        folds: Mapping[str, Fold],
        written: Callable[[], int],
        every: int = EVERY,
    ) -> None:
        self._bus, self._names, self._following, self._peers = bus, names, following, peers
        self._folds, self._written, self._every = folds, written, every
        self._checkpoint = self._last = 0

    async def run(self) -> None:
        """Never ends."""
        self._last = self._following.snapshot
        while True:
            await self._following.until(lambda: self._following.ledger.sequence >= self._last + self._every)
            await self.take()
            self._last = self._following.ledger.sequence

    async def take(self) -> None:
        """Forgets what nobody can need, and keeps the rest as the newest snapshot."""
        status = await self._peers.learner()
        if status is not None and status.HasField("checkpoint_step"):
            self._checkpoint = status.checkpoint_step
        ledger = self._following.ledger
        ledger.forget(min(self._checkpoint, self._written(), ledger.step - KEPT))
        await store(self._bus, self._names, ledger, self._folds)
