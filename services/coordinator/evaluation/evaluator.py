"""Runs the planned evaluations one after the other, each pinned to its version.

While one is due or under way weight_sync holds receivers at its version, so every token comes from exactly that one.
A restarted coordinator goes on: tasks are published again under the same names, and what ended is found in the log.
Where versions are tried weight_sync is asked which names those are: it is waited for.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp

from penstock import rpc
from penstock.bus import Fenced, append, publish_once
from penstock.recipes import Recipe
from penstock.telemetry.waits import waiting
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.admission import deadlines
from services.coordinator.admission.tasks import TaskMaker
from services.coordinator.evaluation import plan as evaluation_plan
from services.coordinator.evaluation.listing import listed
from services.coordinator.state.following import Following, Sample
from services.coordinator.state.peers import Peers

logger = logging.getLogger(__name__)
HOLD_SECONDS = 30.0


class Evaluator:
    """The evaluations of one run at the steps of `planned`. `newest`: the samples of the newest, by its step."""

    def __init__(
        self, recipe: Recipe, following: Following, tasks: TaskMaker, peers: Peers, planned: list[int]
    ) -> None:
        self.given_up: set[int] = set()
        self.reached = ""
        self.newest: dict[int, list[pb.Trajectory]] = {}
        self._recipe, self._following, self._tasks, self._peers = recipe, following, tasks, peers
        self._planned = planned

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Evaluates until nothing is planned any more, the target is reached (`reached` says how), or the run is being
        stopped."""
        following = self._following
        await following.current()
        while (step := evaluation_plan.next_due(self._planned, following.ledger, self.given_up)) is not None:
            self.reached = evaluation_plan.target_reached(self._recipe.evaluation, following.ledger)
            if self.reached or stopping():
                break
            if self._recipe.validates:
                await self._until_measured(step, stopping)
                continue
            async with asyncio.TaskGroup() as tasks:
                holding = tasks.create_task(self._hold(step))
                await self._until_due(step, stopping)
                if following.ledger.rejected(step):
                    self.given_up.add(step)
                elif not stopping():
                    ended = await self._ended_trials(step, stopping)
                    if ended is not None:
                        await self._evaluate(step, ended)
                holding.cancel()
        try:
            await self._peers.release()
        except rpc.RpcError as error:
            logger.info("the hold is left to its lease: %s", error)

    async def _until_measured(self, step: int, stopping: Callable[[], bool]) -> None:
        """The learner measures by itself: it holds the version."""
        await self._following.until(lambda: step in self._following.ledger.evaluations or stopping())

    async def _until_due(self, step: int, stopping: Callable[[], bool]) -> None:
        """Until there is the version, and where versions are tried, until that was decided of it."""
        ledger, tries = self._following.ledger, self._recipe.canary is not None

        def due() -> bool:
            return ledger.step >= step and (not tries or step <= ledger.promoted or ledger.rejected(step))

        await self._following.until(lambda: due() or stopping())

    async def _hold(self, step: int) -> None:
        while True:
            try:
                await self._peers.hold(step, HOLD_SECONDS)
            except rpc.RpcError as error:
                logger.info("weight_sync cannot be asked to hold version %d: %s", step, error)
            await asyncio.sleep(HOLD_SECONDS / 3)  # a lease is renewed well before it ends

    async def _evaluate(self, step: int, ended: int) -> None:
        following, seconds = self._following, self._recipe.limits.group_deadline_seconds
        deadline = Timestamp()
        deadline.FromNanoseconds(time.time_ns() + int(seconds * 1e9))
        tasks = self._tasks.evaluation(step, deadline, ended)
        wanted = [(t.group, i) for t in tasks for i in range(t.group_size)]
        with following.awaiting(wanted):
            samples = await self._played(step, tasks, wanted)
        try:
            wanted_of = self._recipe.evaluation
            result = evaluation_plan.report(step, samples, solved_at=wanted_of.solved_reward, reward=wanted_of.reward)
        except ValueError as error:
            logger.error("%s", error)
            self.given_up.add(step)
            return
        self.newest = {step: samples}
        subject = following.names.ledger_eval_subject(step)
        try:
            last = following.ledger.last(subject)
            await append(following.bus, subject, result.SerializeToString(), expected_last_sequence=last)
        except Fenced:
            logger.info("evaluation %d was recorded by another coordinator", step)
        await following.until(lambda: step in following.ledger.evaluations)
        logger.info("evaluated", extra={"step": step, "reward": result.metrics["reward"]})

    async def _ended_trials(self, step: int, stopping: Callable[[], bool]) -> int | None:
        """How many trials of the version came to nothing: it plays on from the one behind them. None where the run is
        being stopped before weight_sync has said so."""
        if self._recipe.canary is None:
            return 0
        found = await listed(self._following, self._peers, stopping)
        if found is None:
            return None
        return next((info.ended_trials for info in found.versions if info.version.step == step), 0)

    async def _played(self, step: int, tasks: list[pb.GroupTask], wanted: list[Sample]) -> list[pb.Trajectory]:
        """The samples of an evaluation, in their order, once all have ended or their time is over."""
        following, seconds = self._following, self._recipe.limits.group_deadline_seconds
        for task in tasks:
            subject = following.names.task_subject("eval", task.group)
            await publish_once(following.bus, subject, task.SerializeToString())
        await asyncio.gather(*(following.find_evaluated(group, index) for group, index in wanted))
        limit = seconds + deadlines.GRACE_SECONDS + self._recipe.outage_seconds
        with waiting(f"evaluation of version {step}", on="rollout", deadline=limit):
            try:
                async with asyncio.timeout(limit):
                    await following.until(lambda: all(key in following.evaluated for key in wanted))
            except TimeoutError:
                left = [key for key in wanted if key not in following.evaluated]
                await asyncio.gather(*(following.find_evaluated(group, index) for group, index in left))
                logger.warning("evaluation of version %d is reported with what it has", step)
        return [following.evaluated[key] for key in wanted if key in following.evaluated]
