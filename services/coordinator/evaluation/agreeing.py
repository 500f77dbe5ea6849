"""Has the ledger say what weight_sync has decided, whoever was to record it and died, or could not.

    a person, or a trial -> weight_sync, on its disk -> ledger
                               '------ looked at ------> what is lacking there

Invariant (test name): whoever dies between two messages of a decision, ledger and weight_sync say the same once both
are back.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from penstock import rpc
from penstock.bus import BusError, BusTimeout
from penstock.recipes import Recipe
from penstock.weights.v1 import weights_pb2
from services.coordinator.evaluation.listing import Silent, ask
from services.coordinator.evaluation.unrecorded import LONGEST_REASON, undecided, unrecorded
from services.coordinator.state.following import TICK_SECONDS, Following
from services.coordinator.state.peers import Peers
from services.coordinator.state.run_state import RunState
from services.coordinator.state.standstill import standstill

logger = logging.getLogger(__name__)
LEDGER_SECONDS = 10.0
"""A look that takes longer begins anew, so that whoever decides is not kept waiting."""
Decide = Callable[[int, weights_pb2.Decision, str, Mapping[str, float]], Awaitable[Any]]


@dataclasses.dataclass(frozen=True)
class Said:
    """What is done about a version. decide: weight_sync does it, unless the trial is over, and the ledger has it;
    record: the ledger has it; pause: the run is paused, with the reason, and `state` says so; pause_once: once for
    what is so until somebody decides. deciding: held from where weight_sync is asked until the ledger has it, by
    whoever decides: nobody takes another's decision for what the ledger lacks."""

    decide: Decide
    record: Decide
    pause: Callable[[bool, str], Awaitable[None]]
    pause_once: Callable[[str], Awaitable[None]]
    deciding: asyncio.Lock
    state: RunState


class Agreement:
    """That of one run's ledger and weight_sync."""

    def __init__(self, recipe: Recipe, following: Following, peers: Peers, said: Said) -> None:
        self._recipe, self._following, self._peers, self._said = recipe, following, peers, said
        self._told: str | None = None  # of what a store that was lost serves, in this life

    async def run(self) -> None:
        """Looks about once a second, where nobody tries versions and looks before each trial; else it ends at once."""
        while self._recipe.canary is None:
            try:
                await self.look()
            except Silent as silent:  # it, or the run has none
                logger.debug("%s", silent)
            except (rpc.RpcError, BusError) as error:
                logger.warning("what weight_sync decided is looked at again: %s", error)
            await asyncio.sleep(TICK_SECONDS)  # weight_sync announces nothing to whoever is no receiver

    async def look(self) -> weights_pb2.ListVersionsResponse:
        """Has the ledger say what weight_sync has decided; gives what that says. Raises Silent, BusError.

        What was decided since weight_sync was asked is newer than its answer: then the next look records.
        """
        ledger = self._following.ledger
        decided = dict(ledger.decisions)
        listed = await ask(self._peers)
        async with self._said.deciding:  # a person who decides waits for it, so it is not held for ever
            try:
                async with asyncio.timeout(LEDGER_SECONDS):
                    await self._following.current()
                    if ledger.decisions == decided:
                        await self._record(listed)
                        await self._following.current()
            except TimeoutError as error:
                raise BusTimeout("the ledger", LEDGER_SECONDS) from error
        return listed

    async def _record(self, listed: weights_pb2.ListVersionsResponse) -> None:
        ledger = self._following.ledger
        for step, decision, reason in unrecorded(listed, ledger, tries=self._recipe.canary is not None):
            if decision == weights_pb2.DECISION_REJECT:
                await self.rejected(step, reason)
            await self._said.record(step, decision, reason, {})
        wrong = undecided(listed, ledger)
        if wrong != self._told:
            await self._said.pause_once(wrong)
        self._told = wrong

    async def rejected(self, step: int, reason: str) -> str:
        """Pauses the run where it is to be paused for a version that is rejected, or could not go on; gives why, or
        nothing."""
        await self._following.current()
        canary = self._recipe.canary
        if canary is None:
            return ""
        if canary.on_reject != "pause" and not standstill(self._following.ledger, self._recipe, rejected=step):
            return ""
        why = f"version {step} was rejected by its trial: {reason}"[:LONGEST_REASON]
        await self._said.pause(True, why)
        return why
