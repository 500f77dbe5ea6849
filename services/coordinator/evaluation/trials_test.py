"""Versions that are tried, over a real NATS: a fake weight_sync and fake engines with planted faults."""

import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from google.protobuf.timestamp_pb2 import Timestamp

from penstock import rpc
from penstock.bus import Bus, RunNames, append
from penstock.chat import ChatTokenizer
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.coordinator.v1 import coordinator_pb2
from penstock.generation.v1 import generation_pb2, generation_pb2_grpc
from penstock.ledger import Ledger
from penstock.trajectories import float32s, int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from penstock.weights.v1 import weights_pb2, weights_pb2_grpc
from services.coordinator.coordinator import Coordinator
from services.coordinator.server import CoordinatorServicer
from services.coordinator.state.peers import peers
from services.coordinator.testing.run import (
    SIZE,
    drawn,
    make_coordinator,
    make_recipe,
    play_worker,
    publish,
    running,
    settled,
    train,
    until,
)

READY, CANARY, REJECTED = (
    weights_pb2.VERSION_STATE_READY,
    weights_pb2.VERSION_STATE_CANARY,
    weights_pb2.VERSION_STATE_REJECTED,
)
PROMOTE, REJECT = weights_pb2.DECISION_PROMOTE, weights_pb2.DECISION_REJECT


class Store(weights_pb2_grpc.WeightSyncServiceServicer):
    """Has version 0 served and version 1 on trial, which `generation-0` holds unless it failed to take it."""

    OpenBulk: ClassVar[Any]
    AbortVersion: ClassVar[Any]
    BeginVersion: ClassVar[Any]
    CommitVersion: ClassVar[Any]
    FetchDifference: ClassVar[Any]
    FetchTensors: ClassVar[Any]
    PushDifference: ClassVar[Any]
    PushTensors: ClassVar[Any]
    ReportApplied: ClassVar[Any]
    WatchVersions: ClassVar[Any]

    def __init__(self) -> None:
        self.states = {0: (READY, ""), 1: (CANARY, "")}
        self.error = ""
        self.held = True
        self.late, self.refused = False, 0  # whether a person rolls back just before a verdict
        self.coordinator: Coordinator | None = None

    async def ListVersions(self, request: Any, context: Any) -> weights_pb2.ListVersionsResponse:
        infos = [
            weights_pb2.VersionInfo(version=PolicyVersion(epoch=1, step=step), state=state, reason=reason)
            for step, (state, reason) in self.states.items()
        ]
        served = max(step for step, (state, _) in self.states.items() if state == READY)
        receiver = weights_pb2.Receiver(name="generation-0", error=self.error, canary=True)
        if self.error:
            receiver.failed.CopyFrom(PolicyVersion(epoch=1, step=1))
        elif self.held:
            receiver.version.CopyFrom(PolicyVersion(epoch=1, step=1))
        return weights_pb2.ListVersionsResponse(
            versions=infos, receivers=[receiver], served=PolicyVersion(epoch=1, step=served)
        )

    async def GetManifest(self, request: Any, context: Any) -> weights_pb2.GetManifestResponse:
        probe = weights_pb2.Probe(
            token_count=3, tokens=int32s([5, 6, 7]), mask=b"\0\1\1", logprobs=float32s([0.0, -1.0, -2.0])
        )
        return weights_pb2.GetManifestResponse(manifest=weights_pb2.Manifest(version=request.version, probes=[probe]))

    async def DecideVersion(self, request: Any, context: Any) -> weights_pb2.DecideVersionResponse:
        if request.decision == weights_pb2.DECISION_ROLL_BACK:
            self.states[1] = (weights_pb2.VERSION_STATE_VERIFIED, "")
            return weights_pb2.DecideVersionResponse()
        if self.late and request.verdict:
            assert self.coordinator is not None
            await self.coordinator.decide(0, weights_pb2.DECISION_ROLL_BACK, "worse")
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
                self.store.coordinator = made
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


def world_of(bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer) -> World:
    return World(bus, names, folder, tmp_path, chat)


async def test_a_good_version_is_promoted_with_its_numbers_and_measured_as_planned(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    await world.first_step()
    async with playing(world), world.coordinator():
        decided = await world.decided()
    assert decided.decision == PROMOTE and world.store.states[1][0] == READY
    said = {name: round(value, 6) for name, value in decided.metrics.items()}
    assert said == {
        "samples": 4, "samples_wanted": 4, "scored": 4, "mismatch_kl": 0, "reward": 1, "reward_before": 1
    }  # fmt: skip


async def test_log_probs_that_disagree_pause_the_run_with_the_reason_and_a_restart_knows_it(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.engine.apart = 3.0
    await world.first_step()
    async with playing(world):
        async with world.coordinator() as made:
            decided = await world.decided()
            await settled(made, lambda: made.state.value == coordinator_pb2.RUN_STATE_PAUSED)
        assert decided.decision == REJECT and decided.reason.startswith("engine and learner disagree: a KL of")
        async with world.coordinator() as again:
            await settled(again, lambda: again.state.value == coordinator_pb2.RUN_STATE_PAUSED)
            assert again.state.paused_for.startswith("version 1 was rejected by its trial: engine and learner")
            await again.pause(False)
            await settled(again, lambda: again.state.admitting and not again.state.paused_for)


async def test_a_reward_that_falls_is_rejected_and_the_run_goes_on_where_it_may(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    await world.first_step()
    async with playing(world, falls=True), world.coordinator(on_reject="continue") as made:
        decided = await world.decided()
        assert decided.reason == "the reward fell from 1 to 0, by more than reward_drop 0.1"
        assert made.state.admitting
        assert all(slot.min_step == 0 for slot, _ in made.admission.admissible())


async def test_a_resume_that_cannot_help_says_so_at_once(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.engine.apart = 3.0
    await world.first_step()
    async with playing(world), world.coordinator(staleness__max_versions=0) as made:
        await settled(made, lambda: made.state.value == coordinator_pb2.RUN_STATE_PAUSED)
        await world.decided()
        assert not made.watch.stall
        await made.pause(False)
        await settled(made, lambda: bool(made.watch.stall))
        assert made.watch.stall.startswith("version 0 is served, all that are newer were rejected")
        explained = await CoordinatorServicer(made).ExplainStall(coordinator_pb2.ExplainStallRequest(), None)
        assert explained.explanation.startswith(made.watch.stall)
        await made.decide(1, PROMOTE, "it is good enough")
        await settled(made, lambda: not made.watch.stall)


async def test_samples_that_come_behind_a_trial_are_not_kept(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.held = False
    await world.first_step()
    async with playing(world), world.coordinator() as made:
        await settled(made, lambda: len([k for k in made.following.evaluated if k[0].startswith("e00000001")]) == 4)
        world.store.states[1] = (READY, "")
        await settled(made, lambda: not made.following.evaluated)
        late = max(made.tasks.evaluation(1, Timestamp()), key=lambda task: task.row)
        seen = made.following.log.count
        await publish(bus, names, drawn(late, 0, step=1))
        await settled(made, lambda: made.following.log.count > seen)
        assert not made.following.evaluated


async def test_a_rollback_in_the_last_moment_of_a_trial_stands(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.late = True
    await world.first_step()
    async with playing(world), world.coordinator() as made:
        await settled(made, lambda: world.store.refused > 0 and made.ledger.rolled_back == 0)
        assert 1 not in made.ledger.decisions


async def test_an_engine_that_cannot_take_it_and_one_that_never_does_reject_it(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.error = "FetchFailed: tensor 'a': the checksum of its 8 bytes differs"
    await world.first_step()
    async with playing(world), world.coordinator():
        decided = await world.decided()
    assert decided.reason == f"generation-0 cannot take it: {world.store.error}"


async def test_a_canary_that_is_gone_in_the_middle_is_waited_for_and_a_new_coordinator_goes_on(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """The first coordinator sees no engine hold it, and dies; the next one finds what was played meanwhile."""
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.held = False
    await world.first_step()
    async with playing(world):
        async with world.coordinator() as made:
            await settled(made, lambda: len([k for k in made.following.evaluated if k[0].startswith("e00000001")]) == 4)
        world.store.held = True
        async with world.coordinator():
            decided = await world.decided()
    assert decided.decision == PROMOTE and decided.metrics["samples"] == 4


async def test_what_no_engine_takes_in_time_is_rejected(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.held = False
    await world.first_step()
    async with playing(world), world.coordinator(seconds=1):
        decided = await world.decided()
    assert decided.reason == "no engine took it within 1 s"


async def test_what_weight_sync_decided_before_the_ledger_knew_is_recorded(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """It rejected a version at its commit; or a coordinator died between the store's word and the ledger's."""
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.states[1] = (REJECTED, "not finite: a has 3 values that are NaN or infinite")
    await world.first_step()
    async with world.coordinator() as made:
        decided = await world.decided()
        await settled(made, lambda: made.state.value == coordinator_pb2.RUN_STATE_PAUSED)
    assert (decided.decision, decided.reason) == (REJECT, world.store.states[1][1])


async def test_what_a_person_decides_in_the_middle_stands_and_ends_the_trial(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = world_of(bus, names, folder, tmp_path, chat)
    world.store.held = False
    await world.first_step()
    async with playing(world), world.coordinator() as made:
        await settled(made, lambda: len([k for k in made.following.evaluated if k[0].startswith("e00000001")]) == 4)
        world.store.states[1] = (READY, "")
        decided = await world.decided()
        assert (decided.decision, decided.reason) == (PROMOTE, "it is served") and made.state.admitting
