"""CoordinatorService over a Coordinator: what the command line and the dashboard see of a run under way."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from penstock import rpc
from penstock.bus import BusError
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.showing.reader import Reader
from services.coordinator import view
from services.coordinator.coordinator import Coordinator
from services.coordinator.reporting.explaining import dead_groups, explain
from services.coordinator.state.own_waits import own_waits
from services.coordinator.state.standstill import standstill

WATCH_SECONDS = 0.5
HEARTBEAT_SECONDS = 10.0


class CoordinatorServicer(Reader):
    """One run's public face."""

    def __init__(self, coordinator: Coordinator) -> None:
        c = self._c = coordinator
        super().__init__(c.bus, c.names, c.ledger, lambda: c.log.recent, c.chat)

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=view.run(self._c))

    async def WatchRun(self, request: pb.WatchRunRequest, context: Any) -> AsyncIterator[pb.WatchRunResponse]:
        seen = -1
        while True:
            yield pb.WatchRunResponse(run=view.run(self._c))
            await asyncio.sleep(WATCH_SECONDS)  # at most twice a second, as promised
            seen = await self._c.following.changed(seen, HEARTBEAT_SECONDS)

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
        except BusError as error:
            raise rpc.unavailable(f"a restart would not know of it: {error}", reason="NATS") from error
        return pb.StopRunResponse()

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:
        found = await self._c.peers.versions()
        if found is None:
            raise rpc.unavailable("weight_sync does not answer", reason="WEIGHT_SYNC")
        served = found.served if found.HasField("served") else None
        return pb.ListVersionsResponse(versions=found.versions, receivers=found.receivers, served=served)

    async def DecideVersion(self, request: pb.DecideVersionRequest, context: Any) -> pb.DecideVersionResponse:
        try:
            answer = await self._c.decide(request.step, request.decision, request.reason)
        except (rpc.errors.NotFound, rpc.errors.FailedPrecondition) as error:
            refuse = rpc.not_found if isinstance(error, rpc.errors.NotFound) else rpc.failed_precondition
            raise refuse(error.message, reason=error.reason) from error
        except rpc.RpcError as error:
            raise rpc.unavailable(f"weight_sync cannot be asked: {error}", reason="WEIGHT_SYNC") from error
        except BusError as error:
            said = f"it is done, and in the ledger once NATS takes it: {error}"
            raise rpc.unavailable(said, reason="NATS") from error
        return pb.DecideVersionResponse(served=answer.served)

    async def ExplainStall(self, request: pb.ExplainStallRequest, context: Any) -> pb.ExplainStallResponse:
        services = [*await self._c.peers.waits(), *own_waits()]
        waits = standstill(self._c.ledger, self._c.recipe)
        said = [waits, explain(services), self._c.watch.scarce, dead_groups(self._c.ledger.reports)]
        return pb.ExplainStallResponse(explanation="; ".join(filter(None, said)), services=services)
