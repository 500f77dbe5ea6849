"""Whoever dies between two messages of a decision: a real weight_sync, started again from its disk, and a real NATS."""

import asyncio
import pathlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from penstock import rpc
from penstock.bus import Bus, BusError, BusTimeout, RunNames, append
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2
from penstock.ledger import Ledger
from penstock.tensors import make_manifest
from penstock.trajectory.v1 import trajectory_pb2
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.coordinator import coordinator as module
from services.coordinator.coordinator import Coordinator
from services.coordinator.state.peers import peers
from services.coordinator.testing.run import SIZE, fold, make_coordinator, make_recipe, running, settled, train
from services.weight_sync.server import RAW_REQUESTS, RAW_RESPONSES, WeightSync
from services.weight_sync.store import VersionStore

PROMOTE, REJECT, ROLL_BACK = pb.DECISION_PROMOTE, pb.DECISION_REJECT, pb.DECISION_ROLL_BACK
NEWEST = 2
DEATHS = [
    "weight_sync, before it decides",
    "weight_sync, before it answers",
    "the coordinator, before it records",
    "NATS, before it records",
    "nobody",
]
CASES = [*((dies, True) for dies in DEATHS), (DEATHS[1], False), (DEATHS[3], False)]


class Dying(WeightSync):
    """weight_sync, which dies at a point of a decision: its last words are lost with the connection."""

    def __init__(self, store: VersionStore) -> None:
        super().__init__(store, canaries=1)
        self.store, self.dies, self.listed = store, "", 0

    async def DecideVersion(self, request: Any, context: Any) -> pb.DecideVersionResponse:
        if self.dies == "weight_sync, before it decides":
            raise rpc.unavailable("the connection is lost")
        answer = await super().DecideVersion(request, context)
        if self.dies == "weight_sync, before it answers":
            raise rpc.unavailable("the connection is lost")
        return answer

    async def ListVersions(self, request: Any, context: Any) -> pb.ListVersionsResponse:
        self.listed += 1
        return await super().ListVersions(request, context)


class World:
    """A run of NEWEST steps, whose versions weight_sync has."""

    def __init__(
        self, bus: Bus, names: RunNames, folder: pathlib.Path, files: pathlib.Path, chat: ChatTokenizer, tries: bool
    ) -> None:
        self.bus, self.names, self.files, self.chat, self.tries = bus, names, files, chat, tries
        keys = {"data__eval": str(folder / "eval.jsonl"), "weight_sync__canary": {"samples": 4, "seconds": 60}}
        self.recipe = make_recipe(folder, **(keys if tries else {}))

    async def begin(self) -> None:
        for number in range(NEWEST):
            event = trajectory_pb2.LedgerEvent(group=f"g{number:08d}", writer="coordinator")
            event.at.GetCurrentTime()
            event.admitted.group_size = SIZE
            subject = self.names.ledger_group_subject(event.group)
            await append(self.bus, subject, event.SerializeToString(), expected_last_sequence=0)
            await train(self.bus, self.names, number + 1, {event.group: SIZE})
        self.fill()

    def fill(self) -> None:
        """Has weight_sync hold the versions of every step, of which nothing was decided."""
        shutil.rmtree(self.files / "versions", ignore_errors=True)
        store = VersionStore(self.files / "versions", keep=9, tries=self.tries)
        for step in range(NEWEST + 1):
            data = np.full(64, step, np.float32).tobytes()
            made = make_manifest(1, step, [("a", "float32", [64], data)])
            store.begin(made)
            store.staging.feed(made.version, memoryview(data))
            store.commit(made.version)

    @asynccontextmanager
    async def life(self) -> AsyncIterator[tuple[Dying, Coordinator]]:
        """weight_sync and the coordinator, as they are started with what is on the disk and in the streams."""
        dying = Dying(VersionStore(self.files / "versions", keep=9, tries=self.tries))
        async with rpc.Server("weight_sync") as server:
            server.add(
                weights_pb2_grpc.add_WeightSyncServiceServicer_to_server,
                dying,
                raw_requests=RAW_REQUESTS,
                raw_responses=RAW_RESPONSES,
            )
            await server.start()
            async with peers({"weight_sync": server.address}, rpc.Security()) as found:
                made = make_coordinator(self.bus, self.names, self.recipe, self.files, self.chat, found)
                async with running(made.run(), within=60):
                    await settled(made, lambda: made.ledger.step == NEWEST and dying.listed > 0)
                    yield dying, made


async def dies_over(
    dying: Dying, made: Coordinator, step: int, decision: pb.Decision, dies: str, patched: pytest.MonkeyPatch
) -> list["asyncio.Task[Any]"]:
    """A person decides, and whoever it is dies over that. What is left of a dead coordinator, which holds its lock."""
    dying.dies = dies
    if dies == "the coordinator, before it records":
        reached = asyncio.Event()

        async def never(*decided: Any) -> None:
            reached.set()
            await asyncio.Event().wait()

        patched.setattr(made, "_decided", never)
        deciding = asyncio.create_task(made.decide(step, decision, "mine"))
        await asyncio.wait_for(reached.wait(), 10)
        return [deciding]
    if dies == "NATS, before it records":

        async def away(bus: Bus, subject: str, *more: Any, **options: Any) -> int:
            raise BusTimeout(f"publish {subject}", 10, "no answer")

        patched.setattr(module, "append", away)
    if dies == "nobody":
        await made.decide(step, decision, "mine")
    else:
        with pytest.raises((rpc.RpcError, BusError)):
            await made.decide(step, decision, "mine")
    return []


@pytest.mark.parametrize("tries", [False, True], ids=["served at once", "tried"])
@pytest.mark.parametrize(("dies", "again"), CASES)
async def test_whoever_dies_between_two_messages_of_a_decision_both_say_the_same_once_they_are_back(
    bus: Bus,
    names: RunNames,
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    chat: ChatTokenizer,
    dies: str,
    again: bool,
    tries: bool,
) -> None:
    """Of a rollback, and of the promotion that ends it. again: whether both are started again; else they go on."""
    world = World(bus, names, folder, tmp_path, chat, tries)
    await world.begin()
    async with world.life() as (_, made):
        for step in range(1, NEWEST + 1) if tries else ():
            await made.decide(step, PROMOTE, "good")
    done = dies != "weight_sync, before it decides"
    for step, decision in ((1, ROLL_BACK), (NEWEST, PROMOTE)):
        with pytest.MonkeyPatch.context() as patched:
            async with world.life() as (dying, made):
                before = dying.store.rolled_back
                left = await dies_over(dying, made, step, decision, dies, patched)
                if not again:
                    dying.dies = ""
                    patched.undo()
                    await agreed(dying, made, tries)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        async with world.life() as (dying, made):
            await agreed(dying, made, tries)
            assert dying.store.rolled_back == ((decision == ROLL_BACK) if done else before)
            folded = await fold(bus, names)
            assert (folded.rolled_back >= 0) == dying.store.rolled_back and says(folded, dying, tries)
            if done and decision == ROLL_BACK:
                assert (folded.rolled_back, folded.decisions[1].reason) == (1, "mine")
            if not done:
                await made.decide(step, decision, "then")


def says(ledger: Ledger, dying: Dying, tries: bool) -> bool:
    """Whether it says what weight_sync does. Where nothing is tried it knows what is served under a rollback alone."""
    served = dying.store.served()
    assert served is not None
    same = (ledger.rolled_back >= 0) == dying.store.rolled_back
    return same and (ledger.served == served.step or not (tries or dying.store.rolled_back))


async def agreed(dying: Dying, made: Coordinator, tries: bool) -> None:
    """Waits until it does, and has looked again since: then nothing changes any more."""
    await settled(made, lambda: says(made.ledger, dying, tries))
    await looked(dying, made)
    assert says(made.ledger, dying, tries)


async def test_what_a_lost_store_serves_pauses_the_run_once_over_restarts_until_somebody_decides(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    """A whole coordinator: of a rejected version, twice, which a person promotes in between, and of a rollback."""
    world = World(bus, names, folder, tmp_path, chat, tries=False)
    await world.begin()
    for step, decision, why in (
        (NEWEST, REJECT, "version 2 is served, and was rejected: promote it, or roll back"),
        (NEWEST, REJECT, "version 2 is served, and was rejected: promote it, or roll back"),
        (1, ROLL_BACK, "a rollback to version 1 stands, and a newer one is served: promote that, or roll back again"),
    ):
        async with world.life() as (_, made):
            await made.decide(step, decision, "mine")
            await settled(made, lambda: made.state.admitting)
        world.fill()
        async with world.life() as (_, made):
            await settled(made, lambda: made.state.value == coordinator_pb2.RUN_STATE_PAUSED)
            assert made.state.paused_for == why
        async with world.life() as (dying, made):
            assert (made.state.value, made.state.paused_for) == (coordinator_pb2.RUN_STATE_PAUSED, why)
            await made.pause(False)
            await looked(dying, made)
            assert made.state.admitting
        async with world.life() as (dying, made):
            await looked(dying, made)
            assert made.state.admitting and not made.state.paused_for, "a person has resumed it, who knows"
            await made.decide(NEWEST, PROMOTE, "it is good")
            await looked(dying, made)
            assert made.state.admitting


async def looked(dying: Dying, made: Coordinator) -> None:
    """Waits until the coordinator has looked at what weight_sync decided, from the beginning to the end."""
    seen = dying.listed
    await settled(made, lambda: dying.listed > seen + 2)


async def test_what_ledger_and_weight_sync_agree_on_is_recorded_once(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    world = World(bus, names, folder, tmp_path, chat, tries=False)
    await world.begin()
    async with world.life() as (dying, made):
        stub = weights_pb2_grpc.WeightSyncServiceStub(made.peers.channels["weight_sync"])
        for step, decision in ((1, ROLL_BACK), (1, REJECT)):  # by nobody whom the coordinator knows
            request = pb.DecideVersionRequest(step=step, decision=decision, reason="theirs")
            await rpc.call(stub.DecideVersion(request, timeout=10))
            await agreed(dying, made, tries=False)
        decided = dict(made.ledger.decisions)
        assert {step: (each.decision, each.reason) for step, each in decided.items()} == {
            0: (ROLL_BACK, "it is served since a rollback"), 1: (REJECT, "theirs")
        }  # fmt: skip
        seen = dying.listed
        await settled(made, lambda: dying.listed > seen + 4)
        assert made.ledger.decisions == decided
