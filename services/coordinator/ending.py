"""Ends a run: after its last step, at its target, when a user stopped it, or when nothing succeeds any more.

A run is over when everything about it is written: metrics and summary wait for room on the disk, a stop waits for the
learner's checkpoint.
"""

import asyncio
import contextlib
import logging
import pathlib

from penstock import rpc
from penstock.ledger import Fate, Group, Ledger
from penstock.recipes import Recipe
from penstock.telemetry.waits import waiting
from services.coordinator.evaluation.evaluator import Evaluator
from services.coordinator.reporting.recording import Recorder
from services.coordinator.reporting.watching import Watch
from services.coordinator.state.following import TICK_SECONDS, Following
from services.coordinator.state.peers import Peers
from services.coordinator.state.run_state import RunState

logger = logging.getLogger(__name__)

FAILED_GROUPS_IN_A_ROW = 4  # times groups_per_step: then the run is given up, with the reasons
CHECKPOINT_SECONDS = 120


def all_failed(ledger: Ledger, limit: int) -> str:
    """Why a run whose newest `limit` released groups all failed is given up; empty if one of them did not."""
    failed = list[Group]()
    for group in reversed(ledger.groups.values()):
        if group.fate is Fate.IN_FLIGHT:
            continue
        if group.fate is not Fate.FAILED:
            return ""
        failed.append(group)
        if len(failed) == limit:
            return f"the last {limit} groups all failed; the newest: {failed[0].detail}"
    return ""


class Ending:
    """The end of one run. `folder` is where its files are."""

    def __init__(
        self,
        recipe: Recipe,
        folder: pathlib.Path,
        state: RunState,
        following: Following,
        peers: Peers,
        recorder: Recorder,
        watch: Watch,
    ) -> None:
        self._recipe, self._folder, self._state, self._following = recipe, folder, state, following
        self._peers, self._recorder, self._watch = peers, recorder, watch
        self._limit = FAILED_GROUPS_IN_A_ROW * recipe.algorithm.groups_per_step

    def give_up_if_all_failed(self) -> None:
        """To be called when the ledger moved. Under a rollback groups fail for the version that they wait for."""
        if (
            not self._state.over
            and self._following.ledger.rolled_back < 0
            and (why := all_failed(self._following.ledger, self._limit))
        ):
            self.give_up(why)

    def give_up(self, why: str) -> None:
        """The run has failed, and its files say so; nothing changes for one that is over."""
        if self._state.over:
            return
        self._state.fail(why)
        self._recorder.over(self._state.word, self._following.ledger)

    async def run(self, evaluator: Evaluator) -> None:
        """Runs the planned evaluations; ends the run after its last step, or when it was stopped."""
        state, ledger, steps = self._state, self._following.ledger, self._recipe.steps
        await evaluator.run(lambda: state.ending)
        if evaluator.reached and not ledger.reported(steps):
            await self._finish_early(evaluator.reached)
        await self._following.until(lambda: state.ending or not steps or ledger.reported(steps))
        if state.ending:
            await self.until_learner_ended()
        await self._watch.look()
        if not steps and not ledger.evaluations:
            state.fail("no sample was scored; the log of the rollout service says why")
        await self._everything_written()
        state.end()
        self._recorder.over(state.word, ledger)
        await self._following.notify()

    async def _everything_written(self) -> None:
        """Waits for room on the disk: a run is not over before its metrics and its summary are whole."""
        with waiting("room on the disk", on=str(self._folder), deadline=None):
            self._recorder.hold_up()
            while True:
                self._recorder.write(self._following.ledger)
                if not self._recorder.problem:
                    return
                await asyncio.sleep(TICK_SECONDS)  # nobody announces room on a disk

    async def _finish_early(self, reason: str) -> None:
        """Nothing more is admitted; the learner exports what it has. A run that is being stopped is left to that."""
        if not self._state.finish(reason):
            return
        with waiting("the learner to hear that the run is over", on="learner", deadline=None):
            while True:
                try:
                    await self._peers.drain_learner(finish=True)
                    return
                except rpc.RpcError as error:
                    logger.info("the learner cannot be asked to finish yet: %s", error)
                    await asyncio.sleep(TICK_SECONDS)  # it is being started again

    async def until_learner_ended(self) -> None:
        """The learner writes its checkpoint before it ends; it is gone or done within its own bounds.

        It is asked again while it answers: it may be another one than that which heard it.
        """
        with waiting("the learner's checkpoint", on="learner", deadline=CHECKPOINT_SECONDS):
            for _ in range(CHECKPOINT_SECONDS):
                if await self._peers.learner() is None:
                    return
                if self._state.asked:
                    with contextlib.suppress(rpc.RpcError):  # then it is asked in a second
                        await self._peers.drain_learner()
                await asyncio.sleep(TICK_SECONDS)
