"""The run's other services as the coordinator asks them: waits, engines, versions, the learner."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.diagnostics.v1 import diagnostics_pb2, diagnostics_pb2_grpc
from penstock.generation.v1 import generation_pb2, generation_pb2_grpc
from penstock.learner.v1 import learner_pb2, learner_pb2_grpc
from penstock.membership import Member, Watcher, beside
from penstock.weights.v1 import weights_pb2, weights_pb2_grpc

logger = logging.getLogger(__name__)
T = TypeVar("T")
ASK_SECONDS = 3.0
SCORE_SECONDS = 30.0
SILENT = ("coordinator", "dashboard")
"""Kinds that nobody asks what they wait for."""


@dataclasses.dataclass
class Peers:
    """Open channels by service name: "generation-0" -> address, channel. watcher: whom else there is in the run."""

    addresses: Mapping[str, str]
    channels: Mapping[str, grpc.aio.Channel]
    watcher: Watcher | None = None

    @property
    def members(self) -> list[Member]:
        """Everybody who takes part in the run, by kind and instance."""
        return self.watcher.view.members() if self.watcher is not None else []

    @property
    def engine_ready(self) -> bool:
        """Whether an engine may draw, as far as the membership says."""
        return self.watcher is None or bool(self.watcher.view.ready("generation"))

    async def waits(self) -> list[pb.ServiceWaits]:
        """What every service waits for; the unreachable ones say so, and of those that are gone without a word it is
        said."""
        asked = [(name, address, self.channels[name]) for name, address in self.addresses.items()]
        return [*await asyncio.gather(*(_waits(*each) for each in asked)), *self._missed()]

    def _missed(self) -> list[pb.ServiceWaits]:
        missed = self.watcher.view.missed(time.monotonic()) if self.watcher is not None else []
        return [
            pb.ServiceWaits(
                service=_name(member), address=member.address, unreachable=f"nothing was heard of it for {silent:.0f} s"
            )
            for member, silent in missed
            if member.kind not in SILENT and _name(member) not in self.addresses
        ]

    async def engines(self) -> list[generation_pb2.GetEngineResponse]:
        """The replicas that answer."""
        stubs = [generation_pb2_grpc.GenerationServiceStub(self.channels[n]) for n in self._named("generation")]
        return await _answers(s.GetEngine(generation_pb2.GetEngineRequest(), timeout=ASK_SECONDS) for s in stubs)

    async def versions(self) -> weights_pb2.ListVersionsResponse | None:
        """What weight_sync holds; None if it does not answer."""
        stubs = [weights_pb2_grpc.WeightSyncServiceStub(self.channels[n]) for n in self._named("weight_sync")]
        found = await _answers(s.ListVersions(weights_pb2.ListVersionsRequest(), timeout=ASK_SECONDS) for s in stubs)
        return found[0] if found else None

    async def manifest(self, version: PolicyVersion) -> weights_pb2.Manifest:
        """A version's manifest. Raises rpc.RpcError."""
        for name in self._named("weight_sync"):
            stub = weights_pb2_grpc.WeightSyncServiceStub(self.channels[name])
            request = weights_pb2.GetManifestRequest(version=version)
            answer: weights_pb2.GetManifestResponse = await rpc.call(stub.GetManifest(request, timeout=ASK_SECONDS))
            return answer.manifest
        raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, "no weight_sync takes part in the run now")

    async def score(
        self, engine: str, request: generation_pb2.ScoreTokensRequest
    ) -> generation_pb2.ScoreTokensResponse:
        """What an engine, by its name as a receiver, says of tokens. Raises rpc.RpcError."""
        for name in self._named("generation"):
            if name in (engine, f"generation-{engine}"):
                stub = generation_pb2_grpc.GenerationServiceStub(self.channels[name])
                return await rpc.call(stub.ScoreTokens(request, timeout=SCORE_SECONDS))
        raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, f"{engine} does not take part in the run now")

    async def decide(
        self, step: int, decision: weights_pb2.Decision, reason: str, *, verdict: bool = False
    ) -> weights_pb2.DecideVersionResponse:
        """Promotes a version, rejects it, or rolls back to it. verdict: by its trial, while that is under way. Raises
        rpc.RpcError."""
        for name in self._named("weight_sync"):
            stub = weights_pb2_grpc.WeightSyncServiceStub(self.channels[name])
            request = weights_pb2.DecideVersionRequest(step=step, decision=decision, reason=reason, verdict=verdict)
            return await rpc.call(stub.DecideVersion(request, timeout=ASK_SECONDS))
        raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, "no weight_sync takes part in the run now")

    async def hold(self, step: int, lease: float) -> None:
        """Keeps receivers from being moved past `step`."""
        self._need("weight_sync")
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
        if finish:
            self._need("learner")
        for name in self._named("learner"):
            stub = learner_pb2_grpc.LearnerServiceStub(self.channels[name])
            await rpc.call(stub.Drain(learner_pb2.DrainRequest(finish=finish), timeout=ASK_SECONDS))

    def _need(self, service: str) -> None:
        """Raises RpcError where members are known and none is of this kind: nobody hears, and it would look done."""
        if self.watcher is not None and not self._named(service):
            raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, f"no {service} takes part in the run now")

    def _named(self, service: str) -> list[str]:
        return [n for n in self.addresses if n.partition("-")[0] == service]


def _name(member: Member) -> str:
    """What a member is called here: it begins with its kind, which nobody chooses, whatever its instance is called."""
    own = member.instance == member.kind or member.instance.startswith(f"{member.kind}-")
    return member.instance if own else f"{member.kind}-{member.instance}"


async def _waits(name: str, address: str, channel: grpc.aio.Channel) -> pb.ServiceWaits:
    result = pb.ServiceWaits(service=name, address=address)
    stub = diagnostics_pb2_grpc.DiagnosticsServiceStub(channel)
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
async def peers(
    addresses: Mapping[str, str], security: rpc.Security, watcher: Watcher | None = None
) -> AsyncIterator[Peers]:
    """Peers over open channels: those told by their addresses, and the members of the run as they come and go."""
    known, channels = dict(addresses), dict[str, grpc.aio.Channel]()
    async with AsyncExitStack() as stack:
        opened = dict[str, grpc.aio.Channel]()  # by address; closed at the end, for a closed one cancels its callers

        async def channel(address: str) -> grpc.aio.Channel:
            if address not in opened:
                opened[address] = await stack.enter_async_context(rpc.channel(address, security=security))
            return opened[address]

        async def follow(watcher: Watcher) -> None:
            while True:
                seen = watcher.changes
                found = {_name(m): m.address for m in watcher.view.members() if m.address and m.kind not in SILENT}
                found |= addresses
                for name, address in list(found.items()):
                    try:
                        channels[name] = await channel(address)
                    except ValueError as error:  # such as a token that would cross a network in plain text
                        logger.error("%s is not asked: %s", name, error)
                        del found[name]
                known.clear()
                known.update(found)
                await watcher.changed(seen)

        for name, address in addresses.items():
            channels[name] = await channel(address)
        if watcher is not None:
            await stack.enter_async_context(beside(follow(watcher)))
        yield Peers(known, channels, watcher)
