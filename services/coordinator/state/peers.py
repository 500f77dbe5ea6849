"""The run's other services as the coordinator asks them: waits, engines, versions, the learner."""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from penstock import rpc
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.diagnostics.v1 import diagnostics_pb2, diagnostics_pb2_grpc
from penstock.generation.v1 import generation_pb2, generation_pb2_grpc
from penstock.learner.v1 import learner_pb2, learner_pb2_grpc
from penstock.weights.v1 import weights_pb2, weights_pb2_grpc

logger = logging.getLogger(__name__)
T = TypeVar("T")
ASK_SECONDS = 3.0


@dataclasses.dataclass
class Peers:
    """Open channels by service name: "generation-0" -> address, channel."""

    addresses: Mapping[str, str]
    channels: Mapping[str, grpc.aio.Channel]

    async def waits(self) -> list[pb.ServiceWaits]:
        """What every service waits for; the unreachable ones say so."""
        return await asyncio.gather(*(self._waits(name) for name in self.addresses))

    async def engines(self) -> list[generation_pb2.GetEngineResponse]:
        """The replicas that answer."""
        stubs = [generation_pb2_grpc.GenerationServiceStub(self.channels[n]) for n in self._named("generation")]
        return await _answers(s.GetEngine(generation_pb2.GetEngineRequest(), timeout=ASK_SECONDS) for s in stubs)

    async def versions(self) -> weights_pb2.ListVersionsResponse | None:
        """What weight_sync holds; None if it does not answer."""
        stubs = [weights_pb2_grpc.WeightSyncServiceStub(self.channels[n]) for n in self._named("weight_sync")]
        found = await _answers(s.ListVersions(weights_pb2.ListVersionsRequest(), timeout=ASK_SECONDS) for s in stubs)
        return found[0] if found else None

    async def hold(self, step: int, lease: float) -> None:
        """Keeps receivers from being moved past `step`."""
        for stub in [weights_pb2_grpc.WeightSyncServiceStub(self.channels[n]) for n in self._named("weight_sync")]:
            duration = Duration()
            duration.FromNanoseconds(int(lease * 1e9))
            request = weights_pb2.HoldVersionsRequest(holder="evaluation", step=step, lease=duration)
            await rpc.call(stub.HoldVersions(request, timeout=ASK_SECONDS))

    async def release(self) -> None:
        """Ends the hold."""
        for stub in [weights_pb2_grpc.WeightSyncServiceStub(self.channels[n]) for n in self._named("weight_sync")]:
            request = weights_pb2.ReleaseHoldRequest(holder="evaluation")
            await rpc.call(stub.ReleaseHold(request, timeout=ASK_SECONDS))

    async def learner(self) -> learner_pb2.GetStatusResponse | None:
        """The learner's status; None if it does not answer."""
        stubs = [learner_pb2_grpc.LearnerServiceStub(self.channels[n]) for n in self._named("learner")]
        found = await _answers(s.GetStatus(learner_pb2.GetStatusRequest(), timeout=ASK_SECONDS) for s in stubs)
        return found[0] if found else None

    async def drain_learner(self, *, finish: bool = False) -> None:
        """Asks the learner to end after its step; with `finish`, to export the model too. Raises rpc.RpcError."""
        for name in self._named("learner"):
            stub = learner_pb2_grpc.LearnerServiceStub(self.channels[name])
            await rpc.call(stub.Drain(learner_pb2.DrainRequest(finish=finish), timeout=ASK_SECONDS))

    def _named(self, service: str) -> list[str]:
        return [n for n in self.addresses if n.rpartition("-")[0] == service or n == service]

    async def _waits(self, name: str) -> pb.ServiceWaits:
        result = pb.ServiceWaits(service=name, address=self.addresses[name])
        stub = diagnostics_pb2_grpc.DiagnosticsServiceStub(self.channels[name])
        try:
            answer = await rpc.call(stub.ListWaits(diagnostics_pb2.ListWaitsRequest(), timeout=ASK_SECONDS))
            result.waits.extend(answer.waits)
        except rpc.RpcError as error:
            result.unreachable = str(error)
        return result


async def _answers(calls: Iterable[Awaitable[T]]) -> list[T]:
    """The answers of those that answer; the others are logged."""
    results = await asyncio.gather(*(rpc.call(c) for c in calls), return_exceptions=True)
    answers: list[T] = []
    for result in results:
        if isinstance(result, rpc.RpcError):
            logger.debug("a service does not answer: %s", result)
        elif isinstance(result, BaseException):
            raise result
        else:
            answers.append(result)
    return answers


@asynccontextmanager
async def peers(addresses: Mapping[str, str], security: rpc.Security) -> AsyncIterator[Peers]:
    """Peers over open channels."""
    async with AsyncExitStack() as stack:
        channels = {
            name: await stack.enter_async_context(rpc.channel(address, security=security))
            for name, address in addresses.items()
        }
        yield Peers(dict(addresses), channels)
