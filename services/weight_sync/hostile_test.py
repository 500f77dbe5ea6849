"""The weight service against every attack of the kit: nothing is offered, written elsewhere or lost, and it lives."""

import pathlib
from collections.abc import Sequence

import pytest
from google.protobuf.message import Message

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.fetching import Source
from penstock.membership import beside
from penstock.tensors import make_manifest
from penstock.testing.hostile_messages import assault
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.relaying.following import MOST_COMING, Following, TooMany
from services.weight_sync.relaying.relay import Relay
from services.weight_sync.server import RAW_REQUESTS, RAW_RESPONSES, WeightSync
from services.weight_sync.store import VersionStore

SERVICE = pb.DESCRIPTOR.services_by_name["WeightSyncService"]
DATA = bytes(range(256)) * 16


def manifest(step: int) -> pb.Manifest:
    return make_manifest(1, step, [("a", "float32", [512], DATA[:2048]), ("b", "bfloat16", [2, 512], DATA[2048:])])


def seeds(version: PolicyVersion) -> dict[str, Message | Sequence[Message]]:
    """Good requests of every method, about a version that is READY and one that is not."""
    hold = pb.HoldVersionsRequest(holder="h", step=1)
    hold.lease.FromSeconds(1)
    report = pb.ReportAppliedRequest(receiver="g", version=version, error="none")
    applied = pb.ReportAppliedRequest(receiver="g", version=version)
    applied.pause.FromMilliseconds(1)
    applied.transfer.FromMilliseconds(1)
    return {
        "BeginVersion": pb.BeginVersionRequest(manifest=manifest(2)),
        "PushTensors": pb.PushTensorsRequest(version=PolicyVersion(epoch=1, step=2), data=DATA[:64]),
        "OpenPush": pb.OpenPushRequest(version=PolicyVersion(epoch=1, step=2)),
        "PushDifference": pb.PushDifferenceRequest(version=PolicyVersion(epoch=1, step=2), data=DATA[:64]),
        "CommitVersion": pb.CommitVersionRequest(version=PolicyVersion(epoch=1, step=2)),
        "AbortVersion": pb.AbortVersionRequest(version=PolicyVersion(epoch=1, step=2)),
        "WatchVersions": pb.WatchVersionsRequest(receiver="g"),
        "GetManifest": pb.GetManifestRequest(version=version),
        "FetchTensors": pb.FetchTensorsRequest(version=version, offset=8),
        "OpenBulk": pb.OpenBulkRequest(version=version, offset=8),
        "FetchDifference": pb.FetchDifferenceRequest(version=version, held=version),
        "DecideVersion": pb.DecideVersionRequest(step=1, decision=pb.DECISION_PROMOTE),
        "ReportApplied": (report, applied),
        "HoldVersions": hold,
        "ReleaseHold": pb.ReleaseHoldRequest(holder="h"),
    }


async def test_every_rpc_withstands_hostile_requests(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "store"
    async with rpc.Server("weight_sync") as server:
        adder = weights_pb2_grpc.add_WeightSyncServiceServicer_to_server
        service = WeightSync(VersionStore(folder, keep=2))
        server.add(adder, service, raw_requests=RAW_REQUESTS, raw_responses=RAW_RESPONSES)
        await server.start()
        async with rpc.channel(server.address, default_seconds=10) as channel:
            stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
            begin = pb.BeginVersionRequest(manifest=manifest(1))
            await rpc.call(stub.BeginVersion(begin))
            version = begin.manifest.version
            await rpc.call(stub.PushTensors(iter([pb.PushTensorsRequest(version=version, data=DATA)])))
            await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=version)))

            assert await assault(server.address, SERVICE, seeds(version)) == []

            fetched = [m.data async for m in stub.FetchTensors(pb.FetchTensorsRequest(version=version))]
            assert b"".join(fetched) == DATA
            listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
            assert [v.version.step for v in listed.versions if v.state == pb.VERSION_STATE_READY] == [1]
    assert [p for p in tmp_path.rglob("*") if p.parent != folder and p != folder] == []


async def test_a_relay_withstands_them_too_and_keeps_what_weight_sync_has(tmp_path: pathlib.Path) -> None:
    store, own = VersionStore(tmp_path / "store", keep=2), VersionStore(tmp_path / "relay", keep=2, follows=True)
    store.begin(manifest(1))
    store.staging.feed(manifest(1).version, memoryview(DATA))
    version = store.commit(manifest(1).version)
    adder = weights_pb2_grpc.add_WeightSyncServiceServicer_to_server
    async with rpc.Server("weight_sync") as server, rpc.Server("relay") as near:
        server.add(adder, WeightSync(store), raw_requests=RAW_REQUESTS, raw_responses=RAW_RESPONSES)
        await server.start()
        async with rpc.channel(server.address) as channel:
            following = Following(own, Source(channel), "relay-a")
            near.add(adder, Relay(own, None, following), raw_requests=RAW_REQUESTS, raw_responses=RAW_RESPONSES)
            await near.start()
            asked = following.coming(PolicyVersion(epoch=1, step=1, digest=bytes(32)))
            async with beside(following.run()):
                assert await asked == "", "what an asker says of its digest spoils it for nobody"
                assert await assault(near.address, SERVICE, seeds(version)) == []
                assert [i.version.step for i in own.infos()] == [i.version.step for i in store.infos()] == [1]
                kept = own.get(version)
                assert kept is not None and kept.view == DATA


async def test_no_more_than_so_many_versions_are_coming_at_once(tmp_path: pathlib.Path) -> None:
    async with rpc.channel("127.0.0.1:1") as channel:
        following = Following(VersionStore(tmp_path, keep=2, follows=True), Source(channel), "relay-a")
        first = [following.coming(PolicyVersion(epoch=1, step=step)) for step in range(MOST_COMING)]
        with pytest.raises(TooMany, match=f"{MOST_COMING} versions are being fetched already"):
            following.coming(PolicyVersion(epoch=1, step=MOST_COMING))
        assert following.coming(PolicyVersion(epoch=1, step=0, digest=bytes(32))) is first[0]
