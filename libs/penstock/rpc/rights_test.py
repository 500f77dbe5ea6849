"""Who may call what, over real sockets: by what a kind's secret makes, and by the URI of a certificate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock.access import ANYBODY, KINDS, METHODS, Callers, Identity, Kind, service_of
from penstock.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from penstock.environment.v1 import environment_pb2_grpc
from penstock.gateway.v1 import gateway_pb2_grpc
from penstock.generation.v1 import generation_pb2_grpc
from penstock.learner.v1 import learner_pb2_grpc
from penstock.reward.v1 import reward_pb2_grpc
from penstock.rpc import Security, Server, caller, channel
from penstock.rpc.conftest import METHOD, RawWeights
from penstock.telemetry import metrics
from penstock.testing.certificates import issue, issue_kinds
from penstock.weights.v1 import weights_pb2_grpc

PUSH = "/penstock.weights.v1.WeightSyncService/PushTensors"
IDENTITIES = {kind: Identity(kind, f"secret-of-{kind}") for kind in KINDS}
CALLERS = Callers.of(list(IDENTITIES.values()), {service_of(method) for method in METHODS})
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
SERVED: list[tuple[Any, str]] = [
    (coordinator_pb2_grpc, "CoordinatorService"),
    (environment_pb2_grpc, "AgentService"),
    (environment_pb2_grpc, "EnvironmentService"),
    (gateway_pb2_grpc, "GatewayService"),
    (generation_pb2_grpc, "GenerationService"),
    (learner_pb2_grpc, "LearnerService"),
    (reward_pb2_grpc, "RewardService"),
]


def serving(security: Security) -> Server:
    """Everything that the protos have, with nothing behind it but the tensors' sink."""
    server = Server("all", security=security)
    for module, name in SERVED:
        kind = getattr(module, f"{name}Servicer")
        server.add(getattr(module, f"add_{name}Servicer_to_server"), type("Empty", (kind,), {})())
    raw: Any = RawWeights()
    pushed = ["PushTensors"]
    adder = weights_pb2_grpc.add_WeightSyncServiceServicer_to_server
    server.add(adder, raw, raw_requests=pushed, raw_responses=pushed)
    return server


async def status(address: str, security: Security, method: str, payload: bytes = b"") -> tuple[grpc.StatusCode, str]:
    """How a call ends. On the wire every kind of method is a stream of requests."""
    async with channel(address, security=security) as opened:
        call: Any = opened.stream_unary(method)
        try:
            await call(iter([payload]), timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def test_every_kind_may_call_what_the_table_says_and_nothing_else() -> None:
    async with serving(Security(identity=IDENTITIES["weight_sync"], callers=CALLERS)) as server:
        await server.start()
        for kind in KINDS:
            for method, rule in METHODS.items():
                code, words = await status(server.address, Security(identity=IDENTITIES[kind]), f"/{method}")
                if kind in rule.callers:
                    assert code not in (DENIED, UNKNOWN), (kind, method, words)
                else:
                    assert code is DENIED and words == f"{kind} may not call {method}"


async def test_a_handler_knows_who_calls() -> None:
    heard: list[str] = []

    class Hearing(coordinator_pb2_grpc.CoordinatorServiceServicer):
        async def GetRun(self, request: Any, context: Any) -> coordinator_pb2.GetRunResponse:
            heard.append(caller())
            return coordinator_pb2.GetRunResponse()

        async def WatchRun(self, request: Any, context: Any) -> AsyncIterator[coordinator_pb2.WatchRunResponse]:
            heard.append(caller())
            yield coordinator_pb2.WatchRunResponse()
            heard.append(caller())

    servicer: Any = Hearing
    for security in (Security(identity=IDENTITIES["coordinator"], callers=CALLERS), Security()):
        async with Server("coordinator", security=security) as server:
            server.add(coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server, servicer())
            await server.start()
            for kind in ("operator", "dashboard"):
                async with channel(server.address, security=Security(identity=IDENTITIES[kind])) as opened:
                    stub = coordinator_pb2_grpc.CoordinatorServiceStub(opened)
                    await stub.GetRun(coordinator_pb2.GetRunRequest(), timeout=10)
                    _ = [told async for told in stub.WatchRun(coordinator_pb2.WatchRunRequest(), timeout=10)]
    assert heard == [*["operator"] * 3, *["dashboard"] * 3, *[ANYBODY] * 6]


async def test_what_one_service_was_shown_opens_no_other() -> None:
    shown = IDENTITIES["rollout"].shown_to("penstock.environment.v1.EnvironmentService")
    async with serving(Security(callers=CALLERS)) as server:
        await server.start()
        thief = Security(token=shown)
        code, _ = await status(server.address, thief, "/penstock.environment.v1.EnvironmentService/Close")
        assert code not in (DENIED, UNKNOWN)
        code, _ = await status(server.address, thief, "/penstock.generation.v1.GenerationService/Generate")
        assert code is UNKNOWN


async def test_refused_calls_are_counted_and_logged_with_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    counted = metrics.counter(metrics.CALLS_REFUSED, "", ["method"]).labels(PUSH)
    before = counted._value.get()
    async with serving(Security(callers=CALLERS)) as server:
        await server.start()
        code, words = await status(server.address, Security(identity=IDENTITIES["rollout"]), PUSH, bytes(100))
    assert (code, words) == (DENIED, f"rollout may not call {PUSH[1:]}")
    assert counted._value.get() == before + 1
    assert f"a call was refused: rollout may not call {PUSH[1:]}" in caplog.text
    assert "secret-of" not in caplog.text


async def test_nothing_of_a_strangers_request_is_read() -> None:
    """A request without an end: whoever waited for it would not answer."""
    async with serving(Security(callers=CALLERS)) as server:
        await server.start()
        async with channel(server.address) as opened:
            for method in (METHOD, PUSH):
                call: Any = opened.stream_stream(method)(timeout=10)
                assert await call.code() is UNKNOWN


async def test_certificates_name_their_kind(tmp_path: Path) -> None:
    kinds: tuple[Kind, ...] = ("learner", "rollout", "weight_sync")
    authority = issue_kinds(tmp_path, *kinds)
    issue(tmp_path, "nameless", "ca")
    issue(tmp_path, "boss", "ca", uri="spiffe://penstock/boss")

    def held(name: str, *, named: bool = False, identity: Identity | None = None) -> Security:
        paths = {"certificate": tmp_path / f"{name}.crt", "key": tmp_path / f"{name}.key"}
        found = Security.of_files(authority=authority, named=named, **paths)
        return Security(None, found.certificates, identity, CALLERS if identity and named else None, named)

    async with serving(held("weight_sync", named=True)) as server:
        await server.start()
        assert await status(server.address, held("learner"), PUSH) == (grpc.StatusCode.OK, "")
        code, words = await status(server.address, held("rollout"), PUSH)
        assert (code, words) == (DENIED, f"rollout may not call {PUSH[1:]}")
        for other in ("nameless", "boss"):
            code, words = await status(server.address, held(other), PUSH)
            assert code is DENIED and words.startswith("its certificate names no kind")
    both = held("weight_sync", named=True, identity=IDENTITIES["weight_sync"])
    async with serving(both) as server:
        await server.start()
        learner = IDENTITIES["learner"]
        assert await status(server.address, held("learner", identity=learner), PUSH) == (grpc.StatusCode.OK, "")
        code, words = await status(server.address, held("rollout", identity=learner), PUSH)
        assert (code, words) == (DENIED, "its certificate is the rollout's, and its token the learner's")
        assert (await status(server.address, held("learner"), PUSH))[0] is UNKNOWN


async def test_another_teams_service_takes_any_certificate_of_its_authority(tmp_path: Path) -> None:
    authority, _ = issue(tmp_path, "ca")
    issue(tmp_path, "theirs", "ca")
    issue(tmp_path, "ours", "ca")

    def held(name: str) -> Security:
        return Security.of_files(
            authority=authority, certificate=tmp_path / f"{name}.crt", key=tmp_path / f"{name}.key"
        )

    async with serving(held("theirs")) as server:
        await server.start()
        code, _ = await status(server.address, held("ours"), METHOD)
        assert code not in (DENIED, UNKNOWN)


async def test_a_request_is_as_large_as_its_method_takes() -> None:
    most = METHODS["penstock.coordinator.v1.CoordinatorService/StopRun"].bytes
    async with serving(Security()) as server:
        await server.start()
        method = "/penstock.coordinator.v1.CoordinatorService/StopRun"
        code, words = await status(server.address, Security(), method, bytes(most + 1))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and f"takes {most}" in words
        code, _ = await status(server.address, Security(), method, b"\x0a\x01x")
        assert code is not grpc.StatusCode.RESOURCE_EXHAUSTED
