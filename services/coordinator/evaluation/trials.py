"""Tries every version before it is served, and has it promoted or rejected: `weight_sync.canary`.

    weight_sync says which is on trial -> its canaries take it -> the learner's log-probs against theirs, and held-out
    tasks pinned to it -> verdict -> weight_sync -> ledger

The tasks are the first of the version's evaluation, under the same names: an evaluation of it plays on from there, and
a coordinator that is started again finds what was played in the log. Where a rollback ended a trial, whose samples may
have failed for want of an engine, the next one of that version has names of its own. What weight_sync decided and the
ledger does not have is recorded first (`agreeing.py`). While weight_sync is silent no trial is over: its time begins
anew when it answers again.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from penstock import rpc
from penstock.bus import BusError, publish_once
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.coordinator.v1.coordinator_pb2 import RUN_STATE_PAUSED
from penstock.recipes import Recipe
from penstock.recipes.sections import Canary
from penstock.telemetry.waits import waiting
from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1 import weights_pb2
from services.coordinator.admission.tasks import TaskMaker
from services.coordinator.evaluation.agreeing import Agreement, Said
from services.coordinator.evaluation.listing import Silent, ask, listed
from services.coordinator.evaluation.scoring import scored
from services.coordinator.evaluation.unrecorded import LONGEST_REASON
from services.coordinator.evaluation.verdict import Found, Samples, verdict
from services.coordinator.state.following import TICK_SECONDS, Following, Sample
from services.coordinator.state.peers import Peers

logger = logging.getLogger(__name__)
Tried = tuple[PolicyVersion, int]
"""A version on trial, and how many of its trials were ended before without a verdict."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One version's. found: what is known of it so far."""

    canary: Canary
    tried: Tried
    tasks: list[pb.GroupTask]
    found: Found

    @property
    def version(self) -> PolicyVersion:
        """The one that is tried."""
        return self.tried[0]

    @property
    def samples(self) -> list[Sample]:
        """Those that are to be played."""
        return samples_of(self.tasks)


class Trials:
    """Those of one run."""

    def __init__(
        self, recipe: Recipe, following: Following, tasks: TaskMaker, peers: Peers, said: Said, agreement: Agreement
    ) -> None:
        self._recipe, self._following, self._tasks, self._peers, self._said = recipe, following, tasks, peers, said
        self._agreement = agreement
        self._played: dict[int, Samples] = {}
        self._ended: dict[int, int] = {}  # trials by their version, as weight_sync said last

    async def run(self) -> None:
        """Tries version after version; never ends, where versions are tried."""
        canary = self._recipe.canary
        while canary is not None:
            seen = self._following.changes
            try:
                found = await self._agreement.look()
                self._ended = {info.version.step: info.ended_trials for info in found.versions}
                tried = _on_trial(found)
                if tried is not None and self._peers.engine_ready:  # its time counts from then
                    await self._try(canary, tried)
                    continue
            except Silent as silent:
                logger.info("nothing is decided of a trial: %s", silent)
                await listed(self._following, self._peers)
                continue
            except rpc.errors.FailedPrecondition as error:
                logger.info("a verdict comes too late: %s", error)
            except (rpc.RpcError, BusError) as error:
                logger.warning("a trial begins anew: %s", error)
            await self._following.changed(seen, TICK_SECONDS)  # weight_sync announces nothing to whoever is no receiver

    async def _try(self, canary: Canary, tried: Tried) -> None:
        """Tries a version, and decides of it unless somebody else did meanwhile."""
        step, before = tried[0].step, self._following.ledger.served
        tasks = self._chosen(canary, step)
        trial = Trial(canary, tried, tasks, Found(len(samples_of(tasks))))
        found = trial.found
        logger.info("version %d is tried on %d samples", step, found.wanted)
        with self._following.awaiting(trial.samples):
            with waiting(f"the trial of version {step}", on="generation", deadline=canary.seconds):
                over = await self._measured(trial)
            if over:
                logger.info("the trial of version %d is over: it was decided of", step)
                return
            found.samples = await self._samples(trial.tasks)
        found.before = self._played.get(before) or await self._samples(self._chosen(canary, before))
        decided = self._following.ledger.decisions.get(before)
        if decided is not None and "reward" in decided.metrics:
            found.before_reward = decided.metrics["reward"]
        try:
            reason, numbers = verdict(canary, found, self._recipe.evaluation.reward)
        except ValueError as error:  # samples that have no such part of the reward
            reason, numbers = str(error), {}
        if not reason:
            async with self._said.deciding:
                await self._said.decide(step, weights_pb2.DECISION_PROMOTE, "its trial was good", numbers)
            self._played = {step: found.samples}
            return
        async with self._said.deciding:
            if _on_trial(await ask(self._peers)) != tried:
                return  # somebody decided of it in the last moment
            await self._reject(step, reason, numbers)

    async def _reject(self, step: int, reason: str, numbers: Mapping[str, float]) -> None:
        """Pauses the run first: whoever is started again finds the decision, and pauses no more. Where the verdict
        comes too late, for somebody decided past this coordinator, the run is as it was before. Raises
        FailedPrecondition then."""
        state = self._said.state
        paused, paused_for = state.value == RUN_STATE_PAUSED, state.paused_for
        why = await self._agreement.rejected(step, reason)
        try:
            await self._said.decide(step, weights_pb2.DECISION_REJECT, reason[:LONGEST_REASON], numbers)
        except rpc.errors.FailedPrecondition:
            if why and state.value == RUN_STATE_PAUSED and state.paused_for == why:
                own = paused_for == why  # of a coordinator that died over this verdict
                await self._said.pause(paused and not own, "" if own else paused_for)
            raise

    async def _measured(self, trial: Trial) -> bool:
        """Fills in what is found until all of it is, or the time is over; whether somebody decided meanwhile."""
        whole, watched = asyncio.create_task(self._whole(trial)), asyncio.create_task(self._watched(trial))
        within = trial.canary.seconds
        try:
            done, _ = await asyncio.wait({whole, watched}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
            return watched in done and not trial.found.failure
        finally:
            for task in (whole, watched):
                task.cancel()
            await asyncio.gather(whole, watched, return_exceptions=True)

    async def _whole(self, trial: Trial) -> None:
        following = self._following
        for task in trial.tasks:
            subject = following.names.task_subject("eval", task.group)
            await publish_once(following.bus, subject, task.SerializeToString())
        await scored(self._following, self._peers, trial.version, trial.found)
        samples = trial.samples
        await asyncio.gather(*(following.find_evaluated(group, index) for group, index in samples))
        await following.until(lambda: all(sample in following.evaluated for sample in samples))

    async def _watched(self, trial: Trial) -> None:
        """Until the version is on trial no more, or an engine cannot take it. Raises Silent."""
        version = trial.version
        while True:
            seen = self._following.changes
            found = await ask(self._peers)
            if _on_trial(found) != trial.tried:
                return
            for receiver in found.receivers:
                if receiver.error and receiver.failed == version:
                    trial.found.failure = f"{receiver.name} cannot take it: {receiver.error}"
                    return
            await self._following.changed(seen, TICK_SECONDS)

    def _chosen(self, canary: Canary, step: int) -> list[pb.GroupTask]:
        """The first tasks of the version's evaluation, of all sources alike, that make so many samples."""
        deadline = Timestamp()
        deadline.FromNanoseconds(time.time_ns() + int(canary.seconds * 1e9))
        chosen, count, again = list[pb.GroupTask](), 0, self._ended.get(step, 0)
        for task in sorted(self._tasks.evaluation(step, deadline, again), key=lambda task: task.row):
            if count < canary.samples:
                chosen.append(task)
                count += task.group_size
        return chosen

    async def _samples(self, tasks: list[pb.GroupTask]) -> Samples:
        """What the log has of the samples of these, by their place in the evaluation of their version."""
        following, samples = self._following, samples_of(tasks)
        with following.awaiting(samples):
            await asyncio.gather(*(following.find_evaluated(group, index) for group, index in samples))
            got = {sample: following.evaluated[sample] for sample in samples if sample in following.evaluated}
        return {(group.split("-")[1], index): t for (group, index), t in got.items()}


def samples_of(tasks: list[pb.GroupTask]) -> list[Sample]:
    """Those that come of tasks."""
    return [(task.group, index) for task in tasks for index in range(task.group_size)]


def _on_trial(found: weights_pb2.ListVersionsResponse) -> Tried | None:
    on_trial = (info for info in found.versions if info.state == weights_pb2.VERSION_STATE_CANARY)
    return next(((info.version, info.ended_trials) for info in on_trial), None)
