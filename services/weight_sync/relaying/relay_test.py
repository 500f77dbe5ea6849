"""A relay between a weight_sync and receivers, both processes of their own: what comes, by whom, how often, and what it
costs when the relay is not what it should be."""

import asyncio
import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import numpy as np
import pytest

from penstock import rpc
from penstock.bus import Bus, EmbeddedServer, RunNames
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.fetching import FETCHING
from penstock.membership import Member
from penstock.system.boot import boot_id
from penstock.system.locks import LOCK
from penstock.testing.freezing import freeze
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.__main__ import main
from services.weight_sync.relaying.relay import REFUSAL
from services.weight_sync.relaying.relay_testing import SMALL, Shapes, Stand, drawn, made, publish, stand, taken

SERVICE = pb.DESCRIPTOR.services_by_name["WeightSyncService"]
SERVED = {"GetManifest", "FetchTensors", "OpenBulk", "FetchDifference"}


async def test_versions_of_any_size_are_fetched_once_and_given_to_all_of_the_zone(
    run: Stand, chance: np.random.Generator
) -> None:
    await run.relay("relay-a", "a")
    left, hands = 0, [run.hands("g0"), run.hands("g1"), run.hands("g2", host=boot_id())]
    shapes: list[Shapes] = [
        SMALL,
        [("float32", 0)],
        [("float16", 1)],
        [(str(chance.choice(["float32", "bfloat16"])), int(chance.integers(0, 1 << 20))) for _ in range(9)],
    ]
    step = 0
    async with AsyncExitStack() as stack:
        seen = [await stack.enter_async_context(run.relays(name=f"g{i}")) for i in range(3)]
        for each in shapes:
            version, parent = drawn(step + 1, each, chance), None
            for _ in range(3):
                step = version.manifest.version.step
                travelled = await publish(run.channel, version, parent)
                held = await asyncio.gather(*(taken(run, *pair, version) for pair in zip(seen, hands, strict=True)))
                assert {h.relay for h in held} == {"relay-a"}
                if version.data:
                    assert held[2].way == pb.PATH_MAPPED
                    assert held[0].way == (pb.PATH_BULK if travelled == len(version.data) else pb.PATH_DIFFERENCE)
                sent = (await run.listed()).sent_bytes
                assert sent - left == travelled, "once, by the shortest way"
                left, parent, version = sent, version, version.after(chance)


async def test_the_nearest_is_asked_and_nobody_elsewhere(run: Stand, chance: np.random.Generator) -> None:
    version = drawn(1, SMALL, chance)
    await publish(run.channel, version)
    for zone in ("a", "b"):
        await run.relay(f"relay-{zone}", zone)
    for zone, expected in (("a", "relay-a"), ("b", "relay-b"), ("c", ""), ("", "")):
        async with run.relays(zone) as seen:
            assert (await taken(run, seen, run.hands(f"in {zone}"), version)).relay == expected


async def test_whoever_asks_while_it_is_fetching_is_told_so_and_waits(run: Stand, chance: np.random.Generator) -> None:
    found = await run.relay("relay-a", "a")
    relay, store = (run.children[name].pid for name in ("relay-a", "weight_sync"))
    first, version = drawn(1, SMALL, chance), drawn(2, SMALL, chance)
    await publish(run.channel, first)
    async with run.relays() as seen, rpc.channel(found.address) as channel:
        hands = run.hands("g0")
        assert (await taken(run, seen, hands, first)).relay == "relay-a"  # so all of them are connected
        freeze(relay)
        await publish(run.channel, version)
        freeze(store)
        os.kill(relay, signal.SIGCONT)
        taking = asyncio.create_task(taken(run, seen, hands, version))
        stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
        with pytest.raises(rpc.errors.Unavailable, match="version 2 is being fetched") as told:
            await rpc.call(stub.GetManifest(pb.GetManifestRequest(version=version.manifest.version)))
        assert told.value.reason == FETCHING and not taking.done()
        os.kill(store, signal.SIGCONT)
        assert (await taking).relay == "relay-a"


async def test_what_weight_sync_has_retired_the_relay_has_no_more_and_a_rollback_is_served(
    nats: EmbeddedServer, bus: Bus, names: RunNames, tmp_path: pathlib.Path, chance: np.random.Generator
) -> None:
    async with stand(nats, bus, names, tmp_path, "--keep", "2") as run:
        await run.relay("relay-a", "a", "--keep", "10")
        versions = [drawn(1, SMALL, chance)]
        async with run.relays() as seen:
            hands = run.hands("g0")
            for _ in range(5):
                await publish(run.channel, versions[-1])
                assert (await taken(run, seen, hands, versions[-1])).relay == "relay-a"
                versions.append(versions[-1].after(chance))
            kept = {path.name for path in run.directory("relay-a").glob("*.manifest")}
            assert kept == {f"0000000{step}-0001.manifest" for step in (4, 5)}
            with pytest.raises(rpc.errors.NotFound):
                await described(run, versions[0].manifest.version)
        await run.relay("relay-b", "b", "--keep", "1")
        async with run.relays("b") as seen:
            hands = run.hands("late")
            assert (await taken(run, seen, hands, versions[4])).relay == "relay-b", "it came late"
            stub = weights_pb2_grpc.WeightSyncServiceStub(run.channel)
            decided = pb.DecideVersionRequest(step=4, decision=pb.DECISION_ROLL_BACK)
            await rpc.call(stub.DecideVersion(decided))
            assert (await taken(run, seen, hands, versions[3])).relay == "relay-b", "an older one after a newer"


async def described(run: Stand, version: PolicyVersion) -> pb.GetManifestResponse:
    """What relay-a says of a version."""
    (found,) = (m for m in run.watcher.view.ready("relay") if m.instance == "relay-a")
    async with rpc.channel(found.address) as channel:
        stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
        answer: pb.GetManifestResponse = await rpc.call(stub.GetManifest(pb.GetManifestRequest(version=version)))
        return answer


async def test_one_that_is_started_again_has_what_it_had(run: Stand, chance: np.random.Generator) -> None:
    await run.relay("relay-a", "a")
    version = drawn(1, SMALL, chance)
    await publish(run.channel, version)
    async with run.relays() as seen:
        assert (await taken(run, seen, run.hands("g0"), version)).relay == "relay-a"
        sent = (await run.listed()).sent_bytes
        await run.kill("relay-a")
        (run.directory("relay-a") / "00000009-0001.staging").write_bytes(b"half")
        await run.relay("relay-a", "a")
        assert (await taken(run, seen, run.hands("g1"), version)).relay == "relay-a"
        assert (await run.listed()).sent_bytes == sent
        assert not (run.directory("relay-a") / "00000009-0001.staging").exists()


async def test_a_second_start_of_one_is_refused_and_takes_nothing_from_the_first(
    run: Stand, chance: np.random.Generator
) -> None:
    before = await run.relay("relay-a", "a")
    first = run.children["relay-a"]
    half = run.directory("relay-a") / "00000009-0001.staging"
    half.write_bytes(b"half")
    second = await run.spawn("relay", "relay-a", "--relay", "--zone", "a")
    assert await second.ended() == 2
    said = (run.folder / "relay-a.log").read_text()
    assert f"{run.directory('relay-a')} is in use by another process ({first.pid}); give this relay another" in said, (
        said
    )
    assert half.read_bytes() == b"half" and "Traceback" not in said
    version = drawn(1, SMALL, chance)
    await publish(run.channel, version)
    async with run.relays() as seen:
        assert (await taken(run, seen, run.hands("g0"), version)).relay == "relay-a"
    assert [m.incarnation for m in run.watcher.view.ready("relay")] == [before.incarnation]
    run.children["relay-a"] = first


async def test_what_a_relay_cannot_answer_it_refuses_in_one_sentence(run: Stand, chance: np.random.Generator) -> None:
    found = await run.relay("relay-a", "a")
    version = drawn(1, SMALL, chance)
    hold = pb.HoldVersionsRequest(holder="h", step=1)
    hold.lease.FromSeconds(1)
    named = version.manifest.version
    requests: dict[str, Any] = {
        "BeginVersion": pb.BeginVersionRequest(manifest=version.manifest),
        "PushTensors": iter([pb.PushTensorsRequest(version=named)]),
        "OpenPush": pb.OpenPushRequest(version=named),
        "PushDifference": iter([pb.PushDifferenceRequest(version=named)]),
        "CommitVersion": pb.CommitVersionRequest(version=named),
        "AbortVersion": pb.AbortVersionRequest(version=named),
        "WatchVersions": pb.WatchVersionsRequest(receiver="g"),
        "ReportApplied": pb.ReportAppliedRequest(receiver="g", version=named),
        "DecideVersion": pb.DecideVersionRequest(step=1, decision=pb.DECISION_PROMOTE),
        "ListVersions": pb.ListVersionsRequest(),
        "HoldVersions": hold,
        "ReleaseHold": pb.ReleaseHoldRequest(holder="h"),
    }
    assert set(requests) == {method.name for method in SERVICE.methods} - SERVED
    async with rpc.channel(found.address, default_seconds=10, stream_seconds=10) as channel:
        stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
        for name, request in requests.items():
            with pytest.raises(rpc.RpcError) as refused:
                if name == "WatchVersions":
                    with rpc.translated():
                        _ = [told async for told in stub.WatchVersions(request)]
                else:
                    await rpc.call(getattr(stub, name)(request))
            assert (refused.value.code, refused.value.reason, refused.value.message) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "RELAY",
                REFUSAL,
            ), name
    assert [path.name for path in run.directory("relay-a").iterdir()] == [LOCK]


async def test_a_relay_is_told_what_is_promoted_and_is_neither_canary_nor_receiver(
    nats: EmbeddedServer, bus: Bus, names: RunNames, tmp_path: pathlib.Path
) -> None:
    async def told(stub: Any, receiver: str) -> int:
        watched = pb.WatchVersionsRequest(receiver=receiver, relay=receiver == "relay-a")
        stream = stub.WatchVersions(watched)
        answer = await anext(aiter(stream))
        stream.cancel()
        return int(answer.version.step)

    async with stand(nats, bus, names, tmp_path, "--canaries", "1") as run:
        stub: Any = weights_pb2_grpc.WeightSyncServiceStub(run.channel)
        await run.relay("relay-a", "a")
        for step in (1, 2):
            await publish(run.channel, made(step, SMALL, bytes(4 + 2 * 3001)))
        assert await told(stub, "generation-0") == 2, "it tries it"
        assert await told(stub, "relay-a") == 1
        assert [r.name for r in (await run.listed()).receivers] == ["generation-0"]
        await rpc.call(stub.DecideVersion(pb.DecideVersionRequest(step=2, decision=pb.DECISION_PROMOTE)))
        assert await told(stub, "relay-a") == 2


async def test_differences_are_made_for_a_relay_where_all_engines_map_the_stores_file(
    run: Stand, chance: np.random.Generator
) -> None:
    stub = weights_pb2_grpc.WeightSyncServiceStub(run.channel)
    first, second = drawn(1, SMALL, chance), drawn(2, SMALL, chance)

    async def all_mapped() -> bool:
        answer = await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=second.manifest)))
        return bool(answer.all_mapped)

    await publish(run.channel, first)
    applied = pb.ReportAppliedRequest(receiver="g", version=first.manifest.version, path=pb.PATH_MAPPED)
    await rpc.call(stub.ReportApplied(applied))
    assert await all_mapped()
    await run.relay("relay-a", "a")
    async with run.relays() as seen:
        await taken(run, seen, run.hands("g0"), first)  # so it watches
    assert not await all_mapped()
    await run.kill("relay-a")
    async with asyncio.timeout(20):
        while not await all_mapped():
            await asyncio.sleep(0.05)


async def test_its_record_says_what_it_is_and_where_and_no_peer_takes_it_for_weight_sync(run: Stand) -> None:
    found: Member = await run.relay("relay-a", "a")
    assert (found.kind, found.zone) == ("relay", "a") and found.address
    assert [m.instance for m in run.watcher.view.of("weight_sync")] == ["weight_sync"]


@pytest.fixture
def refused_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    def words(*flags: str) -> str:
        monkeypatch.setattr(sys, "argv", ["weight_sync", "--directory", "d", *flags])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().err

    yield words


def test_flags_that_make_no_relay_are_refused(refused_words: Any) -> None:
    assert "--relay: which run is it a relay of? --nats and --run say it" in refused_words("--relay")
    joined = ("--relay", "--nats", "nats://127.0.0.1:1", "--run", "r")
    assert "--canaries: 1 with --relay" in refused_words(*joined, "--canaries", "1")
