"""Looks at the run's other services about once a second, and says when nothing has moved for too long."""

import asyncio
import logging
import pathlib
import time

from penstock.bus import Bus, BusError, RunNames, TaskConsumer, stream_state
from penstock.recipes import Recipe
from penstock.telemetry import metrics
from services.coordinator.reporting.explaining import computes, explain
from services.coordinator.reporting.machine import disk_used
from services.coordinator.reporting.recording import Recorder
from services.coordinator.reporting.stalls import StallWatch
from services.coordinator.reporting.summary import Services
from services.coordinator.state.following import TICK_SECONDS, Following
from services.coordinator.state.own_waits import own_waits
from services.coordinator.state.peers import Peers
from services.coordinator.state.room import scarce_log
from services.coordinator.state.run_state import RunState
from services.coordinator.state.standstill import standstill

logger = logging.getLogger(__name__)
_stalled = metrics.gauge(metrics.STALLED, "1 while the run has stalled")
_pending = metrics.gauge(metrics.TASKS_PENDING, "groups that no worker has taken yet")
_oldest = metrics.gauge(metrics.OLDEST_GROUP, "seconds since this process first saw the oldest group in flight")
_log_used = metrics.gauge(metrics.LOG_USED, "share of the room for the log of samples that is taken")
_disk_used = metrics.gauge(metrics.DISK_USED, "share of the disk of the run's directory that is taken")


class Watch:
    """What was seen last.

    Attributes:
        services: the look at the other services. stall: why nothing has moved for long, or will until a person decides
            of a version; empty while the run moves.
        scarce: that the log has little room; empty while there is enough.
    """

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        recipe: Recipe,
        state: RunState,
        following: Following,
        peers: Peers,
        folder: pathlib.Path,
    ) -> None:
        self.services = Services()
        self.stall = self.scarce = ""
        self._recipe, self._limits = recipe, recipe.limits
        self._bus, self._names, self._state, self._following, self._peers = bus, names, state, following, peers
        self._folder, self._first_seen = folder, dict[str, float]()
        self._stalls = StallWatch(recipe.limits.stall_seconds)

    async def run(self, recorder: Recorder) -> None:
        """Looks, and lets the recorder try again what a full disk delayed; never ends."""
        while True:
            await self.look()
            await self._check_stall()
            recorder.write(self._following.ledger)
            await self._following.notify()
            await asyncio.sleep(TICK_SECONDS)  # these services announce no changes; a look a second is cheap

    async def look(self) -> None:
        """Looks at queue, log, engines and versions."""
        s = self.services
        try:
            backlog = await TaskConsumer(self._bus, self._names, "train").backlog()
            s.tasks_pending = backlog.pending
            _pending.set(backlog.pending)
        except BusError as error:
            logger.debug("no backlog yet: %s", error)
        await self._look_at_log()
        self._look_at_room(time.monotonic())
        found = await self._peers.engines()
        if found:
            s.serving_step = min(e.version.step for e in found)
            s.looks += 1
            s.busy_looks += any(e.running for e in found)
        s.versions = await self._peers.versions() or s.versions

    def _look_at_room(self, now: float) -> None:
        moves = self._state.expected_to_move  # a paused run, and one that is over, keep theirs
        self._first_seen = {n: self._first_seen.get(n, now) for n in self._following.ledger.in_flight if moves}
        _oldest.set(now - min(self._first_seen.values(), default=now))
        if (used := disk_used(self._folder)) is not None:
            _disk_used.set(used)

    async def _look_at_log(self) -> None:
        try:
            fill = (await stream_state(self._bus, self._names.log)).fill
            _log_used.set(fill)
            scarce = scarce_log(self._limits, fill)
        except BusError as error:
            logger.debug("the log does not answer: %s", error)
            return
        if scarce and not self.scarce:
            logger.warning("%s", scarce)
        self.scarce = scarce

    async def _check_stall(self) -> None:
        """Says once, in the log and in the run's status, why nothing has moved for limits.stall_seconds; nothing while
        somebody computes."""
        now = time.monotonic()
        position = (self._following.ledger.sequence, self._following.log.count)
        if self._state.admitting and (why := standstill(self._following.ledger, self._recipe)):
            if not self.stall:
                logger.warning("the run waits for a person: %s", why)
            self.stall = why
            _stalled.set(1)
            return
        if self._stalls.look(position, self._state.expected_to_move, now):
            waits = [*await self._peers.waits(), *own_waits()]
            if computes(waits):
                self._stalls.excuse(now)
            else:
                self.stall = f"nothing has moved for {self._stalls.seconds(now):.0f} s: {explain(waits)}"
                logger.warning("the run has stalled: %s", self.stall)
        elif not self._stalls.stalled:
            self.stall = ""
        _stalled.set(self._stalls.stalled)
