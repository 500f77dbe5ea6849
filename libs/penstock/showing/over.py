"""A run that is over, or was interrupted, shown as its coordinator would: from its streams and its summary.

Nobody is asked and nothing is written; what would change the run is refused.

Invariant (test name): what a run that is over shows is what its coordinator showed last.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from penstock import rpc
from penstock.bus import Bus, RunNames, load_payload, read, stream_state
from penstock.chat import HasText
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.ledger import Ledger
from penstock.recipes import Recipe
from penstock.rules.quarantine import BadEntry
from penstock.showing.reader import RECENT, Reader
from penstock.showing.standing import standing
from penstock.snapshots import folded
from penstock.trajectories import read_sample
from penstock.trajectory.v1 import trajectory_pb2

HEARTBEAT_SECONDS = 10.0
STATES = {"done": pb.RUN_STATE_DONE, "stopped": pb.RUN_STATE_STOPPED, "failed": pb.RUN_STATE_FAILED}
INTERRUPTED = "interrupted: nothing of it runs any more; the same train command goes on with it"


class RunOver(Reader):
    """Serves one run. summary: what its summary.json says, empty where there is none."""

    def __init__(
        self,
        bus: Bus,
        recipe: Recipe,
        summary: Mapping[str, Any],
        ledger: Ledger,
        samples: Sequence[trajectory_pb2.Trajectory],
        chat: HasText,
    ) -> None:
        super().__init__(bus, RunNames(recipe.run), ledger, lambda: samples, chat)
        status = str(summary.get("status", ""))
        self._run = standing(recipe, ledger)
        self._run.state = STATES.get(status, pb.RUN_STATE_STOPPED)
        self._run.reason = str(summary.get("reason", "")) if status in STATES else INTERRUPTED
        self._run.serving_version.step = self._run.trained_version.step
        self._run.alerts.extend(str(each["alert"]) for each in summary.get("alerts", []) if each.get("until") is None)
        if ledger.reports:
            self._run.updated_at.CopyFrom(ledger.reports[max(ledger.reports)].at)

    @staticmethod
    async def of(bus: Bus, recipe: Recipe, summary: Mapping[str, Any], chat: HasText) -> "RunOver":
        """What the streams hold. Raises bus.NotFound (there are none), BusTimeout."""
        names = RunNames(recipe.run)
        ledger, samples = await asyncio.gather(folded(bus, names), _latest(bus, names))
        return RunOver(bus, recipe, summary, ledger, samples, chat)

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=self._run)

    async def WatchRun(self, request: pb.WatchRunRequest, context: Any) -> AsyncIterator[pb.WatchRunResponse]:
        while True:
            yield pb.WatchRunResponse(run=self._run)
            await asyncio.sleep(HEARTBEAT_SECONDS)  # nothing will change; the caller sees that somebody is there

    async def ExplainStall(self, request: pb.ExplainStallRequest, context: Any) -> pb.ExplainStallResponse:
        return pb.ExplainStallResponse(explanation=f"it waits for nothing: {self._over}")

    async def PauseRun(self, request: pb.PauseRunRequest, context: Any) -> pb.PauseRunResponse:
        raise self._refused()

    async def ResumeRun(self, request: pb.ResumeRunRequest, context: Any) -> pb.ResumeRunResponse:
        raise self._refused()

    async def StopRun(self, request: pb.StopRunRequest, context: Any) -> pb.StopRunResponse:
        raise self._refused()

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:
        raise self._refused()

    async def DecideVersion(self, request: pb.DecideVersionRequest, context: Any) -> pb.DecideVersionResponse:
        raise self._refused()

    @property
    def _over(self) -> str:
        word = pb.RunState.Name(self._run.state).removeprefix("RUN_STATE_").lower()
        why = f" ({self._run.reason})" if self._run.reason else ""
        return f"the run is {word} at step {self._run.step} of {self._run.max_steps}{why}"

    def _refused(self) -> rpc.Abort:
        return rpc.failed_precondition(self._over, reason="RUN_OVER")


async def _latest(bus: Bus, names: RunNames) -> list[trajectory_pb2.Trajectory]:
    """The samples at the end of the log, newest first, without those that are quarantined."""
    found = list[trajectory_pb2.Trajectory]()
    last = (await stream_state(bus, names.log)).last_sequence
    async with aclosing(read(bus, names.log, after=max(0, last - RECENT), live=False)) as entries:
        async for entry in entries:
            try:
                found.append(read_sample(names, entry.subject, await load_payload(bus, names, entry.payload)))
            except BadEntry:
                continue
    return found[::-1]
