"""What people decide of versions: done by weight_sync, recorded in the ledger, and refused with its words."""

import pathlib
from typing import Any, ClassVar

import grpc
import pytest

from penstock import rpc
from penstock.bus import Bus, RunNames
from penstock.chat import ChatTokenizer
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.weights.v1 import weights_pb2, weights_pb2_grpc
from services.coordinator.server import CoordinatorServicer
from services.coordinator.state.peers import Peers, peers
from services.coordinator.testing.run import fold, make_coordinator, make_recipe, served

ROLL_BACK, REJECT = weights_pb2.DECISION_ROLL_BACK, weights_pb2.DECISION_REJECT


class Store(weights_pb2_grpc.WeightSyncServiceServicer):
    """Serves version 0, and knows one receiver; refuses to reject it."""

    # Nobody asks it these: generated code answers UNIMPLEMENTED, and only its stubs call them abstract.
    AbortVersion: ClassVar[Any]
    BeginVersion: ClassVar[Any]
    CommitVersion: ClassVar[Any]
    FetchDifference: ClassVar[Any]
    FetchTensors: ClassVar[Any]
    GetManifest: ClassVar[Any]
    HoldVersions: ClassVar[Any]
    OpenBulk: ClassVar[Any]
    OpenPush: ClassVar[Any]
    PushDifference: ClassVar[Any]
    PushTensors: ClassVar[Any]
    ReleaseHold: ClassVar[Any]
    ReportApplied: ClassVar[Any]
    WatchVersions: ClassVar[Any]

    async def ListVersions(self, request: Any, context: Any) -> weights_pb2.ListVersionsResponse:
        info = weights_pb2.VersionInfo(version=PolicyVersion(epoch=1), state=weights_pb2.VERSION_STATE_READY)
        receiver = weights_pb2.Receiver(name="g0", path=weights_pb2.PATH_MAPPED)
        return weights_pb2.ListVersionsResponse(versions=[info], receivers=[receiver], served=info.version)

    async def DecideVersion(self, request: Any, context: Any) -> weights_pb2.DecideVersionResponse:
        if request.step:
            raise rpc.not_found(f"version {request.step} is not kept", reason="NO_VERSION")
        if request.decision == REJECT:
            raise rpc.failed_precondition("nothing would be left to serve", reason="VERSION_REFUSED")
        return weights_pb2.DecideVersionResponse(served=PolicyVersion(epoch=1, step=request.step))


async def decide(stub: Any, step: int, decision: weights_pb2.Decision) -> pb.DecideVersionResponse:
    request = pb.DecideVersionRequest(step=step, decision=decision, reason="worse")
    answer: pb.DecideVersionResponse = await rpc.call(stub.DecideVersion(request))
    return answer


async def test_a_decision_is_carried_out_and_recorded_and_a_refused_one_is_not(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    recipe = make_recipe(folder)
    adder = coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server
    async with rpc.Server("weight_sync") as server:
        server.add(weights_pb2_grpc.add_WeightSyncServiceServicer_to_server, Store())
        await server.start()
        async with (
            peers({"weight_sync": server.address}, rpc.Security()) as found,
            served(adder, CoordinatorServicer(make_coordinator(bus, names, recipe, tmp_path, chat, found))) as channel,
        ):
            stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
            listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
            assert [r.name for r in listed.receivers] == ["g0"] and listed.served.epoch == 1
            assert (await decide(stub, 0, ROLL_BACK)).served.epoch == 1
            with pytest.raises(rpc.errors.NotFound, match="version 7 is not kept"):
                await decide(stub, 7, ROLL_BACK)
            with pytest.raises(rpc.errors.FailedPrecondition, match="nothing would be left"):
                await decide(stub, 0, REJECT)
    ledger = await fold(bus, names)
    assert {step: (d.decision, d.reason) for step, d in ledger.decisions.items()} == {0: (ROLL_BACK, "worse")}


async def test_without_weight_sync_nobody_is_told_that_it_was_done(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    coordinator = make_coordinator(bus, names, make_recipe(folder), tmp_path, chat, Peers({}, {}))
    adder = coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server
    async with served(adder, CoordinatorServicer(coordinator)) as channel:
        stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        for call in (stub.ListVersions(pb.ListVersionsRequest()), decide(stub, 0, ROLL_BACK)):
            with pytest.raises(rpc.RpcError) as error:
                await rpc.call(call)
            assert error.value.code is grpc.StatusCode.UNAVAILABLE
    assert not (await fold(bus, names)).decisions
