"""A run whose version 1 is to be tried, over a real NATS: a fake weight_sync and a fake engine with planted faults."""

import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from penstock import rpc
from penstock.bus import Bus, RunNames, append
from penstock.chat import ChatTokenizer
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.generation.v1 import generation_pb2, generation_pb2_grpc
from penstock.ledger import Ledger
from penstock.trajectories import float32s, int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1 import weights_pb2, weights_pb2_grpc
from services.coordinator.coordinator import Coordinator
from services.coordinator.state.peers import peers
from services.coordinator.testing.run import (
    SIZE,
    make_coordinator,
    make_recipe,
    play_worker,
    running,
    settled,
    train,
    until,
)

READY, VERIFIED, CANARY, REJECTED = (
    weights_pb2.VERSION_STATE_READY,
    weights_pb2.VERSION_STATE_VERIFIED,
    weights_pb2.VERSION_STATE_CANARY,
    weights_pb2.VERSION_STATE_REJECTED,
)
PROMOTE, REJECT, ROLL_BACK = (
    weights_pb2.DECISION_PROMOTE,
    weights_pb2.DECISION_REJECT,
    weights_pb2.DECISION_ROLL_BACK,
)


class Store(weights_pb2_grpc.WeightSyncServiceServicer):
    """Has version 0 served and version 1 on trial, which `generation-0` holds unless it failed to take it."""

    OpenBulk: ClassVar[Any]
    AbortVersion: ClassVar[Any]
    BeginVersion: ClassVar[Any]
    CommitVersion: ClassVar[Any]
    FetchDifference: ClassVar[Any]
    FetchTensors: ClassVar[Any]
    OpenPush: ClassVar[Any]
    PushDifference: ClassVar[Any]
    PushTensors: ClassVar[Any]
    ReportApplied: ClassVar[Any]
    WatchVersions: ClassVar[Any]

    def __init__(self) -> None:
        self.states = {0: (READY, ""), 1: (CANARY, "")}
        self.error = ""
        self.ended = 0  # trials of version 1, by a rollback
        self.held = True
        self.late, self.refused = False, 0  # whether somebody rolls back just before a verdict
        self.listed = 0
        self.silent = False

    async def ListVersions(self, request: Any, context: Any) -> weights_pb2.ListVersionsResponse:
        if self.silent:
            raise rpc.unavailable("it is being started again")
        infos = [
            weights_pb2.VersionInfo(
                version=PolicyVersion(epoch=1, step=step),
                state=state,
                reason=reason,
                ended_trials=self.ended if step == 1 else 0,
            )
            for step, (state, reason) in self.states.items()
        ]
        served = max(step for step, (state, _) in self.states.items() if state == READY)
        receiver = weights_pb2.Receiver(name="generation-0", error=self.error, canary=True)
        if self.error:
            receiver.failed.CopyFrom(PolicyVersion(epoch=1, step=1))
        elif self.held:
            receiver.version.CopyFrom(PolicyVersion(epoch=1, step=1))
        self.listed += 1
        served_now = PolicyVersion(epoch=1, step=served)
        return weights_pb2.ListVersionsResponse(versions=infos, receivers=[receiver], served=served_now)

    async def GetManifest(self, request: Any, context: Any) -> weights_pb2.GetManifestResponse:
        probe = weights_pb2.Probe(
            token_count=3, tokens=int32s([5, 6, 7]), mask=b"\0\1\1", logprobs=float32s([0.0, -1.0, -2.0])
        )
        return weights_pb2.GetManifestResponse(manifest=weights_pb2.Manifest(version=request.version, probes=[probe]))

    async def DecideVersion(self, request: Any, context: Any) -> weights_pb2.DecideVersionResponse:
        if request.decision == ROLL_BACK:
            self.ended += self.states[1][0] == CANARY
            self.states[1] = (VERIFIED, "")
            return weights_pb2.DecideVersionResponse()
        if self.late and request.verdict:
            self.states[1] = (VERIFIED, "")
        if request.verdict and self.states[request.step][0] != CANARY:
            self.refused += 1
            raise rpc.failed_precondition("it is not on trial any more", reason="VERSION_REFUSED")
        self.states[request.step] = (READY if request.decision == PROMOTE else REJECTED, request.reason)
        return weights_pb2.DecideVersionResponse()

    async def HoldVersions(self, request: Any, context: Any) -> weights_pb2.HoldVersionsResponse:
        return weights_pb2.HoldVersionsResponse()

    async def ReleaseHold(self, request: Any, context: Any) -> weights_pb2.ReleaseHoldResponse:
        return weights_pb2.ReleaseHoldResponse()


class Engine(generation_pb2_grpc.GenerationServiceServicer):
    """Says what the learner says, and `apart` more."""

    Drain: ClassVar[Any]
    Generate: ClassVar[Any]
    Resume: ClassVar[Any]

    def __init__(self) -> None:
        self.apart = 0.0

    async def GetEngine(self, request: Any, context: Any) -> generation_pb2.GetEngineResponse:
        return generation_pb2.GetEngineResponse(version=PolicyVersion(epoch=1, step=1))

    async def ScoreTokens(self, request: Any, context: Any) -> generation_pb2.ScoreTokensResponse:
        said = float32s([-1.0 + self.apart, -2.0 + self.apart])
        return generation_pb2.ScoreTokensResponse(logprobs=said, count=2, version=PolicyVersion(epoch=1, step=1))


class World:
    """A run whose version 1 is to be tried."""

    def __init__(
        self, bus: Bus, names: RunNames, folder: pathlib.Path, files: pathlib.Path, chat: ChatTokenizer
    ) -> None:
        self.bus, self.names, self.folder, self.files, self.chat = bus, names, folder, files, chat
        self.store, self.engine = Store(), Engine()

    @asynccontextmanager
    async def coordinator(self, **canary: Any) -> AsyncIterator[Coordinator]:
        keys = {key: canary.pop(key) for key in list(canary) if "__" in key}
        wanted = {"samples": 4, "seconds": 10, **canary}
        keys |= {"data__eval": str(self.folder / "eval.jsonl"), "weight_sync__canary": wanted}
        recipe = make_recipe(self.folder, **keys)
        async with rpc.Server("both") as server:
            server.add(weights_pb2_grpc.add_WeightSyncServiceServicer_to_server, self.store)
            server.add(generation_pb2_grpc.add_GenerationServiceServicer_to_server, self.engine)
            await server.start()
            addresses = {"weight_sync": server.address, "generation-0": server.address}
            async with peers(addresses, rpc.Security()) as found:
                made = make_coordinator(self.bus, self.names, recipe, self.files, self.chat, found)
                async with running(made.run(), within=60):
                    yield made

    async def first_step(self) -> None:
        """The batch that made version 1."""
        for number in range(2):
            event = pb.LedgerEvent(group=f"g{number:08d}", writer="coordinator")
            event.at.GetCurrentTime()
            event.admitted.group_size = SIZE
            subject = self.names.ledger_group_subject(event.group)
            await append(self.bus, subject, event.SerializeToString(), expected_last_sequence=0)
        await train(self.bus, self.names, 1, {"g00000000": SIZE, "g00000001": SIZE})

    async def decided(self) -> pb.VersionDecision:
        ledger: Ledger = await until(self.bus, self.names, lambda ledger: 1 in ledger.decisions)
        return ledger.decisions[1]


@asynccontextmanager
async def playing(world: World, falls: bool = False) -> AsyncIterator[None]:
    """A worker that plays held-out tasks. falls: whether version 1 is never rewarded."""
    worker = play_worker(world.bus, world.names, "eval", reward=lambda step: 0.0 if falls and step else 1.0)
    async with running(worker, within=60):
        yield


@asynccontextmanager
async def played(world: World) -> AsyncIterator[Coordinator]:
    """A trial of which every sample is played and nothing is decided: no engine holds the version."""
    world.store.held = False
    await world.first_step()
    async with playing(world), world.coordinator() as made:
        await settled(made, lambda: sum(group.startswith("e00000001") for group, _ in made.following.evaluated) == 4)
        yield made


def world_of(bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer) -> World:
    return World(bus, names, folder, tmp_path, chat)
