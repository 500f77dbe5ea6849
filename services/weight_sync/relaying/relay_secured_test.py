"""A relay under mutual TLS and secrets: a receiver has versions from it by every way; it may do no more."""

import pathlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from penstock import rpc
from penstock.bus import EmbeddedServer, RunNames, connect, ensure_run
from penstock.fetching import Bulk
from penstock.rpc import Security
from penstock.testing.nats.fixtures import SMALL as LIMITS
from penstock.weights.v1 import weights_pb2 as pb
from penstock.weights.v1 import weights_pb2_grpc
from services.weight_sync.relaying.relay_testing import SMALL, Shapes, Stand, drawn, publish, stand, taken
from services.weight_sync.relaying.secured_testing import Secured

NAMES = RunNames("r1")
LARGE: Shapes = [("float32", 1), ("bfloat16", 0), ("bfloat16", 2 << 20), ("float16", 1)]
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
def shown(tmp_path: pathlib.Path) -> Secured:
    return Secured(tmp_path / "secrets", NAMES)


@pytest_asyncio.fixture
async def secured(tmp_path: pathlib.Path, shown: Secured) -> AsyncIterator[Stand]:
    """A run whose NATS and services take nobody without a certificate and a secret, looked at by an engine."""
    operator = shown.login("operator")
    async with AsyncExitStack() as stack:
        server = EmbeddedServer(
            tmp_path / "store", tmp_path / "nats.log", users=shown.users, tls=shown.nats, client_tls=operator.tls
        )
        nats = await stack.enter_async_context(server)
        making = connect(nats.url, name="operator", login=operator, monitor_url=nats.monitor_url)
        await ensure_run(await stack.enter_async_context(making), NAMES, LIMITS)
        looking = connect(nats.url, name="generation", login=shown.login("generation"))
        bus = await stack.enter_async_context(looking)
        yield await stack.enter_async_context(stand(nats, bus, NAMES, tmp_path, shown=shown))


async def test_a_receiver_has_versions_from_it_over_tls_by_every_way(
    secured: Stand, shown: Secured, chance: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = secured
    await run.relay("relay-a", "a")
    first = drawn(1, LARGE, chance)
    second = first.after(chance)
    await publish(run.channel, first)
    async with run.relays() as seen:
        hands = run.hands("g0")
        held = await taken(run, seen, hands, first)
        assert (held.way, held.relay) == (pb.PATH_BULK, "relay-a")
        travelled = await publish(run.channel, second, first)
        held = await taken(run, seen, hands, second)
        assert (held.way, held.relay) == (pb.PATH_DIFFERENCE, "relay-a")
    monkeypatch.setattr(Bulk, "beside", lambda *_: None)
    async with run.relays(name="g1") as seen:
        held = await taken(run, seen, run.hands("g1"), second)
        assert (held.way, held.relay) == (pb.PATH_WHOLE, "relay-a")
    assert (await run.listed()).sent_bytes == len(first.data) + travelled, "each left weight_sync once"


async def refused(address: str, security: Security, name: str, request: Any) -> tuple[grpc.StatusCode, str]:
    """How a call ends that must fail."""
    async with rpc.channel(address, security=security, default_seconds=10, stream_seconds=10) as channel:
        stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
        with pytest.raises(rpc.RpcError) as error, rpc.translated():
            if name in ("WatchVersions", "FetchTensors", "FetchDifference"):
                _ = [each async for each in getattr(stub, name)(request)]
            else:
                await rpc.call(getattr(stub, name)(request))
    return error.value.code, error.value.message


async def test_it_may_neither_push_nor_decide_nor_report_nor_pass_itself_off_as_a_receiver(
    secured: Stand, shown: Secured, chance: np.random.Generator
) -> None:
    run = secured
    version = drawn(1, SMALL, chance)
    await publish(run.channel, version)
    named, relay = version.manifest.version, shown.security("relay")
    hold = pb.HoldVersionsRequest(holder="h", step=1)
    hold.lease.FromSeconds(1)
    for name, request in {
        "BeginVersion": pb.BeginVersionRequest(manifest=drawn(2, SMALL, chance).manifest),
        "PushTensors": iter([pb.PushTensorsRequest(version=named)]),
        "PushDifference": iter([pb.PushDifferenceRequest(version=named)]),
        "CommitVersion": pb.CommitVersionRequest(version=named),
        "AbortVersion": pb.AbortVersionRequest(version=named),
        "ReportApplied": pb.ReportAppliedRequest(receiver="g0", version=named),
        "DecideVersion": pb.DecideVersionRequest(step=1, decision=pb.DECISION_REJECT),
        "HoldVersions": hold,
        "ReleaseHold": pb.ReleaseHoldRequest(holder="h"),
    }.items():
        words = f"relay may not call penstock.weights.v1.WeightSyncService/{name}"
        assert await refused(run.address, relay, name, request) == (DENIED, words)
    watched = await refused(run.address, relay, "WatchVersions", pb.WatchVersionsRequest(receiver="g0"))
    assert watched[0] is DENIED and watched[1].startswith("relay: a relay watches as one")
    listed = await run.listed()
    assert (listed.served, len(listed.receivers)) == (named, 0)


async def test_a_relay_gives_versions_to_whom_the_table_names_and_weight_sync_calls_nobody(
    secured: Stand, shown: Secured, chance: np.random.Generator
) -> None:
    run = secured
    found = await run.relay("relay-a", "a")
    version = drawn(1, SMALL, chance)
    await publish(run.channel, version)
    wanted = pb.GetManifestRequest(version=version.manifest.version)
    for kind in ("weight_sync", "rollout"):
        code, words = await refused(found.address, shown.security(kind), "GetManifest", wanted)
        assert (code, words) == (DENIED, f"{kind} may not call penstock.weights.v1.WeightSyncService/GetManifest")
    code, words = await refused(found.address, shown.security("relay", certificate="rollout"), "GetManifest", wanted)
    assert (code, words) == (DENIED, "its certificate is the rollout's, and its token the relay's")
    certified = Security(certificates=shown.security("generation").certificates)
    assert (await refused(found.address, certified, "GetManifest", wanted))[0] is UNKNOWN
    fetched = pb.FetchTensorsRequest(version=version.manifest.version)
    assert (await refused(run.address, shown.security("weight_sync"), "FetchTensors", fetched))[0] is DENIED


async def test_one_that_is_started_with_weight_syncs_credentials_is_told_whose_it_wants(
    secured: Stand, shown: Secured
) -> None:
    child = await secured.spawn("weight_sync", "relay-a", "--relay")
    assert await child.ended() == 2
    said = (secured.folder / "relay-a.log").read_text()
    assert "--token-file: it is the weight_sync's; a relay shows one of its own kind, relay.token" in said, said
