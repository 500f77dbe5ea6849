"""One run's coordinator: wires admission, evaluation, deadlines and the end to one state and one view of the streams.

It owns nothing. Everything it knows is folded from the ledger and the tail of the log, so it can be killed at any
moment and started anywhere: the next one reads the ledger, publishes the tasks of groups in flight again (the stream
refuses those it has) and goes on. Two at once do no harm either: both would admit the same groups under the same names,
and the ledger takes each once.
"""

import asyncio
import logging
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from penstock.bus import Bucket, Bus, RunNames, append
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.ledger import Fold
from penstock.recipes import Recipe
from penstock.telemetry import steps
from penstock.trajectory.v1 import trajectory_pb2
from penstock.weights.v1 import weights_pb2
from services.coordinator.admission.admitting import Admission
from services.coordinator.admission.deadlines import Deadlines
from services.coordinator.admission.tasks import SHOWN, TaskMaker
from services.coordinator.ending import Ending
from services.coordinator.evaluation.agreeing import Agreement, Said
from services.coordinator.evaluation.evaluator import Evaluator
from services.coordinator.evaluation.trials import Trials
from services.coordinator.reporting.alerts import Alerts
from services.coordinator.reporting.machine import Machine
from services.coordinator.reporting.recording import Recorder
from services.coordinator.reporting.sinks import Sink
from services.coordinator.reporting.summary import summarise
from services.coordinator.reporting.totals import Totals
from services.coordinator.reporting.trackers.texts import TEXTS, text_of
from services.coordinator.reporting.trackers.tracker import Text
from services.coordinator.reporting.watching import Watch
from services.coordinator.state.asked import Asked
from services.coordinator.state.following import Following
from services.coordinator.state.peers import Peers
from services.coordinator.state.recipes import record_recipe
from services.coordinator.state.run_state import RunState
from services.coordinator.state.snapshots import Snapshots

logger = logging.getLogger(__name__)


class Coordinator:
    """See the module. `run` does everything until the run is over; `view` and the gRPC façade read the attributes."""

    def __init__(
        self,
        bus: Bus,
        names: RunNames,
        recipe: Recipe,
        folder: pathlib.Path,
        peers: Peers,
        sinks: list[Sink],
        chat: ChatTokenizer,
    ) -> None:
        self.bus, self.names, self.recipe, self.chat, self.peers = bus, names, recipe, chat, peers
        self.state, self._sinks = RunState(), sinks
        self.following = Following(bus, names)
        self.ledger, self.log = self.following.ledger, self.following.log
        self.alerts, self.totals = Alerts(recipe.telemetry.alerts), Totals()
        self._machine = Machine(folder)
        self.tasks = TaskMaker(recipe)
        self.watch = Watch(bus, names, recipe, self.state, self.following, peers, folder)
        self.recorder = Recorder(folder, sinks, self._around, self.summary, self._texts)
        self._folds: dict[str, Fold] = {"alerts": self.alerts, "totals": self.totals}
        self._snapshots = Snapshots(bus, names, self.following, peers, self._folds, lambda: self.recorder.written)
        self._evaluator = Evaluator(recipe, self.following, self.tasks, peers, recipe.evaluation_steps)
        self._deciding, self._pausing = asyncio.Lock(), asyncio.Lock()
        said = Said(self._verdict, self._decided, self.pause, self.pause_once, self._deciding, self.state)
        self._agreement = Agreement(recipe, self.following, peers, said)
        self._trials = Trials(recipe, self.following, self.tasks, peers, said, self._agreement)
        self._ending = Ending(recipe, folder, self.state, self.following, peers, self.recorder, self.watch)
        self._deadlines = Deadlines(bus, names, recipe, self.following, self._ending.give_up)
        self.admission = Admission(bus, names, recipe, self.following, self.tasks, self.state, self._ending.give_up)

    async def run(self) -> None:
        """Runs until the run is done, stopped or failed; then serves what there is to see until cancelled."""
        await self.restore()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.following.follow_ledger(self._moved))
            tasks.create_task(self.following.follow_log())
            tasks.create_task(self.admission.run())
            tasks.create_task(self.watch.run(self.recorder))
            tasks.create_task(self._ending.run(self._evaluator))
            tasks.create_task(self._deadlines.run())
            tasks.create_task(self._snapshots.run())
            tasks.create_task(self._agreement.run())
            tasks.create_task(self._trials.run())
            tasks.create_task(self._tell_over())
            tasks.create_task(record_recipe(self.bus, self.names, self.following, self.recipe))

    async def restore(self) -> None:
        """Takes up the run where its streams are."""
        have = min((sink.through for sink in self._sinks), default=0)
        await self.following.restore(self._folds, have)
        bucket = Bucket(self.bus, self.names)
        over = await bucket.get(self.names.over_key)
        if over is not None and over.value:
            await bucket.put(self.names.over_key, b"")
        asked = Asked(self.bus, self.names)
        self.state.begin(paused=await asked.paused(), why=await asked.paused_for())
        if reason := await asked.to_stop():
            self.state.stop(reason)
        for group in list(self.ledger.in_flight.values()):
            await self.admission.publish_again(group)
        logger.info("restored", extra={"step": self.ledger.step, "in_flight": len(self.ledger.in_flight)})
        self._moved()

    @property
    def quarantined(self) -> int:
        """Entries of the run's streams that this process has set aside."""
        return self.ledger.quarantine.counts.total() + self.following.quarantine.counts.total()

    async def pause(self, paused: bool, why: str = "") -> None:
        """Stops or resumes admission, also over restarts of this process. why: where it was no person's wish."""
        async with self._pausing:  # who is asked meanwhile is asked behind it
            self.state.pause(paused, why)
            await Asked(self.bus, self.names).pause(paused, why)
        await self.following.notify()

    async def pause_once(self, fact: str) -> None:
        """Stops admission for what is so until somebody decides; who resumed the run knows it, also over restarts.
        Empty: nothing is so any more."""
        async with self._pausing:
            paused = await Asked(self.bus, self.names).pause_once(fact)
            if paused and self.state.paused_for != fact:
                self.state.pause(True, fact)
        await self.following.notify()

    async def decide(self, step: int, decision: weights_pb2.Decision, reason: str) -> weights_pb2.DecideVersionResponse:
        """Has weight_sync promote a version, reject it or roll back to it, and records that it has: a person's wish.

        Raises rpc.RpcError, and BusError if it was done and could not be recorded: then it is as soon as it can be.
        """
        async with self._deciding:
            answer = await self.peers.decide(step, decision, reason)
            await self._decided(step, decision, reason, {})
        return answer

    async def _verdict(
        self, step: int, decision: weights_pb2.Decision, reason: str, metrics: Mapping[str, float]
    ) -> None:
        """As `decide`, for a trial, which holds `_deciding`: what a person decided meanwhile stands. Raises
        FailedPrecondition then."""
        await self.peers.decide(step, decision, reason, verdict=True)
        await self._decided(step, decision, reason, metrics)

    async def _decided(
        self, step: int, decision: weights_pb2.Decision, reason: str, metrics: Mapping[str, float]
    ) -> None:
        """Records what weight_sync has done. metrics: by what a trial decided. Raises BusError."""
        decided = trajectory_pb2.VersionDecision(step=step, decision=decision, reason=reason, metrics=metrics)
        decided.at.GetCurrentTime()
        subject = self.names.ledger_version_subject(step)
        await append(self.bus, subject, decided.SerializeToString(), expected_last_sequence=None)
        logger.warning(
            "version %d: %s",
            step,
            weights_pb2.Decision.Name(decision).removeprefix("DECISION_"),
            extra={"reason": reason},
        )

    async def stop(self, reason: str) -> None:
        """Ends the run after the step in progress, also over restarts of this process; the first reason stands.

        Raises rpc.RpcError if the learner cannot be asked, BusError if it cannot be remembered.
        """
        self.state.stop(reason)
        await self.following.notify()
        await Asked(self.bus, self.names).stop(reason)
        await self.peers.drain_learner()

    async def _tell_over(self) -> None:
        """Tells those who take part that the run is over, once the learner has published and exported what it has."""
        await self.following.until(lambda: self.state.over)
        if self.state.value is not pb.RUN_STATE_FAILED:
            await self._ending.until_learner_ended()
        await Bucket(self.bus, self.names).put(self.names.over_key, self.state.word.encode())

    def _moved(self) -> None:
        """The ledger is longer than before."""
        self.totals.see(self.ledger.reports)
        for alert in self.alerts.see(self.ledger.reports):
            logger.warning("alert: %s", alert, extra={"step": alert.step})
        self.recorder.write(self.ledger)
        self._ending.give_up_if_all_failed()

    def _around(self) -> dict[str, float]:
        """What metrics.jsonl says of the run at the moment of a step."""
        return {
            steps.GENERATED_PER_SECOND: self.log.tokens_per_second(),
            steps.TASKS_PENDING: float(self.watch.services.tasks_pending),
            steps.GROUPS_IN_FLIGHT: float(len(self.ledger.in_flight)),
            **self._machine.look(),
        }

    def _texts(self, step: int) -> list[Text]:
        """Samples of the evaluation of a version, where this process has seen them."""
        return [text_of(t, self.chat) for t in self._evaluator.newest.get(step, ())[:TEXTS]]

    def summary(self) -> dict[str, Any]:
        """What summary.json says now."""
        head = {"run": self.recipe.run, "status": self.state.word, "reason": self.state.reason}
        told = [{"step": a.step, "until": a.until, "alert": str(a)} for a in self.alerts.raised]
        left_out = self.tasks.left_out
        rest = {
            "quarantined": self.quarantined,
            "alerts": told,
            "rows": {"left_out": len(left_out), "first": left_out[:SHOWN]},
        }
        return head | summarise(self.ledger, self.totals, self.watch.services, time.time()) | rest
