"""CoordinatorService over a Coordinator: what the command line and the dashboard see."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

from penstock import rpc
from penstock.bus import last_entry, load_payload
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.ledger import Fate
from penstock.rules.quarantine import BadEntry
from penstock.trajectories import read_sample
from penstock.trajectory.v1 import trajectory_pb2
from services.coordinator import view
from services.coordinator.coordinator import Coordinator
from services.coordinator.reporting.explaining import dead_groups, explain

WATCH_SECONDS = 0.5
HEARTBEAT_SECONDS = 10.0
STEPS_PER_PAGE = 500


class CoordinatorServicer(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """One run's public face."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._c = coordinator

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=view.run(self._c))

    async def WatchRun(self, request: pb.WatchRunRequest, context: Any) -> AsyncIterator[pb.WatchRunResponse]:
        seen = -1
        while True:
            yield pb.WatchRunResponse(run=view.run(self._c))
            await asyncio.sleep(WATCH_SECONDS)  # at most twice a second, as promised
            seen = await self._c.following.changed(seen, HEARTBEAT_SECONDS)

    async def ListSteps(self, request: pb.ListStepsRequest, context: Any) -> pb.ListStepsResponse:
        size = request.page_size or STEPS_PER_PAGE
        found = await self._c.history.reports(request.after, size + 1)
        return pb.ListStepsResponse(steps=found[:size], more=len(found) > size)

    async def PauseRun(self, request: pb.PauseRunRequest, context: Any) -> pb.PauseRunResponse:
        await self._c.pause(True)
        return pb.PauseRunResponse()

    async def ResumeRun(self, request: pb.ResumeRunRequest, context: Any) -> pb.ResumeRunResponse:
        await self._c.pause(False)
        return pb.ResumeRunResponse()

    async def StopRun(self, request: pb.StopRunRequest, context: Any) -> pb.StopRunResponse:
        try:
            await self._c.stop(request.reason or "stopped by a user")
        except rpc.RpcError as error:
            raise rpc.unavailable(f"the learner cannot be asked to end: {error}", reason="LEARNER") from error
        return pb.StopRunResponse()

    async def ListSamples(self, request: pb.ListSamplesRequest, context: Any) -> pb.ListSamplesResponse:
        wanted = [t for t in self._c.log.recent if request.kind in (trajectory_pb2.TASK_KIND_UNSPECIFIED, t.kind)]
        return pb.ListSamplesResponse(samples=[view.sample(t, self._c.chat) for t in wanted[: request.page_size or 50]])

    async def GetSample(self, request: pb.GetSampleRequest, context: Any) -> pb.GetSampleResponse:
        c = self._c
        try:
            subject = c.names.log_subject(request.group, request.index)
        except ValueError as error:
            raise rpc.invalid_argument(str(error), rpc.Violation("group", str(error))) from error
        entry = await last_entry(c.bus, c.names.log, subject)
        if entry is None:
            raise rpc.not_found(f"{request.group}/{request.index} is not in the log", reason="NO_SAMPLE")
        try:
            t = read_sample(c.names, entry.subject, await load_payload(c.bus, c.names, entry.payload))
        except BadEntry as bad:
            raise rpc.failed_precondition(f"the sample is quarantined: {bad}", reason="QUARANTINED") from bad
        return pb.GetSampleResponse(sample=view.sample(t, c.chat))

    async def ExplainStall(self, request: pb.ExplainStallRequest, context: Any) -> pb.ExplainStallResponse:
        services = await self._c.peers.waits()
        said = [explain(services), dead_groups(self._c.ledger.reports)]
        return pb.ExplainStallResponse(explanation="; ".join(filter(None, said)), services=services)

    async def GetLineage(self, request: pb.GetLineageRequest, context: Any) -> pb.GetLineageResponse:
        ledger, history = self._c.ledger, self._c.history
        if request.WhichOneof("of") == "step":
            record = await history.batch(request.step)
            if record is None:
                raise rpc.not_found(f"step {request.step} has no batch; the newest is {ledger.step}", reason="NO_STEP")
            return pb.GetLineageResponse(step=request.step, fate="TRAINED", samples=_entries(record))
        group_name, _, index = request.sample.partition("/")
        group = await history.group(group_name)
        if group is None or not re.fullmatch("[0-9]{1,10}", index) or int(index) >= group.admitted.group_size:
            raise rpc.not_found(
                f"sample {request.sample!r} was never admitted; ids are group/index", reason="NO_SAMPLE"
            )
        response = pb.GetLineageResponse(fate=group.fate.value, detail=group.detail)
        record = await history.batch(group.step) if group.fate is Fate.TRAINED and group.step else None
        if record is not None:
            entries = [e for e in _entries(record) if e.group == group_name and e.index == int(index)]
            if entries:
                response.step = record.step
                response.samples.extend(entries)
            else:
                response.fate, response.detail = "FAILED", f"its group was trained in step {group.step} without it"
        return response


def _entries(record: trajectory_pb2.BatchRecord) -> list[pb.LineageEntry]:
    return [
        pb.LineageEntry(group=g.group, index=i, log_sequence=s)
        for g in record.groups
        for i, s in zip(g.indices, g.log_sequences, strict=True)
    ]
