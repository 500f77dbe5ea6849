"""The traps of a gRPC server, one test each."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from penstock.diagnostics.v1 import diagnostics_pb2, diagnostics_pb2_grpc
from penstock.reward.v1 import reward_pb2, reward_pb2_grpc
from penstock.rpc import AddressInUse, Server, Transport, call, channel, translated
from penstock.rpc.conftest import METHOD, Misbehaving, RawWeights, request
from penstock.rpc.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from penstock.telemetry import metrics
from penstock.telemetry.waits import waiting
from penstock.weights.v1 import weights_pb2_grpc


async def test_a_taken_address_is_a_clear_error(server: Server) -> None:
    async with Server("second", server.address) as second:
        with pytest.raises(AddressInUse, match=server.address):
            await second.start()


async def test_the_address_is_announced_whole(server: Server, tmp_path: Path) -> None:
    server.announce(tmp_path / "deep" / "address")
    assert (tmp_path / "deep" / "address").read_text() == server.address
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["address"]


async def test_health_is_checked_and_watched(server: Server) -> None:
    """OpenTelemetry's interceptor would break Watch; health is kept out of it."""
    async with channel(server.address) as opened:
        stub = health_pb2_grpc.HealthStub(opened)
        name = "penstock.reward.v1.RewardService"
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await server._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


async def test_reflection_lists_the_services_only_when_asked_for(server: Server) -> None:
    async with channel(server.address) as opened:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(opened)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in stub.ServerReflectionInfo(iter([ask]), timeout=5):
            names = {service.name for service in answer.list_services_response.service}
        assert "penstock.reward.v1.RewardService" in names
    async with Server("quiet") as quiet:
        await quiet.start()
        async with channel(quiet.address) as opened:
            stub = reflection_pb2_grpc.ServerReflectionStub(opened)
            with pytest.raises(Unimplemented), translated():
                async for _ in stub.ServerReflectionInfo(iter([ask]), timeout=5):
                    pass


async def test_waits_are_served(server: Server) -> None:
    async with channel(server.address) as opened:
        stub = diagnostics_pb2_grpc.DiagnosticsServiceStub(opened)
        with waiting("groups 812, 815", on="rollout", deadline=5):
            with waiting("a version", on="learner", deadline=None, idle=True):
                answer = await stub.ListWaits(diagnostics_pb2.ListWaitsRequest(), timeout=5)
    assert answer.service == "test-1"
    listed = [(wait.what, wait.on, wait.idle) for wait in answer.waits]
    assert ("groups 812, 815", "rollout", False) in listed and ("a version", "learner", True) in listed


async def test_an_unexpected_exception_leaks_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with channel(server.address) as opened:
        stub = reward_pb2_grpc.RewardServiceStub(opened)
        with pytest.raises(Internal, match="incident") as caught:
            await call(stub.Score(request("bug"), timeout=5))
        assert "secret" not in str(caught.value)
        incident = caught.value.message.rsplit(" ", 1)[1]
        assert any(getattr(record, "incident", "") == incident for record in caplog.records)
        with pytest.raises(Internal, match="incident"), translated():
            items = [reward_pb2.ScoreItem(id="1", completion="bug")]
            async for _ in stub.ScoreStream(reward_pb2.ScoreStreamRequest(items=items), timeout=5):
                pass


async def test_malformed_bytes_are_the_callers_fault(server: Server) -> None:
    async with channel(server.address) as opened:
        unary: Any = opened.unary_unary(METHOD)
        stream: Any = opened.unary_stream(f"{METHOD}Stream")
        with pytest.raises(InvalidArgument, match="not a valid message"):
            await call(unary(b"\xff\xff\xff\xff", timeout=5))
        with pytest.raises(InvalidArgument), translated():
            async for _ in stream(b"\x0a\xff", timeout=5):
                pass


async def test_broken_rules_are_named_by_field(server: Server, servicer: Misbehaving) -> None:
    async with channel(server.address) as opened:
        stub = reward_pb2_grpc.RewardServiceStub(opened)
        with pytest.raises(InvalidArgument) as caught:
            await call(stub.Score(request("x", item=""), timeout=5))
        (violation,) = caught.value.violations
        assert (violation.field, violation.rule) == ("items[0].id", "string.min_len")
        with pytest.raises(InvalidArgument), translated():
            async for _ in stub.ScoreStream(reward_pb2.ScoreStreamRequest(), timeout=5):
                pass
    assert servicer.calls == 0


async def test_an_oversized_message_is_refused_and_the_server_lives(server: Server) -> None:
    async with channel(server.address, transport=Transport(max_message_bytes=64 << 20)) as opened:
        stub = reward_pb2_grpc.RewardServiceStub(opened)
        with pytest.raises(ResourceExhausted):
            await call(stub.Score(request("x" * (33 << 20)), timeout=10))
        await call(stub.Score(request("x"), timeout=5))


async def test_a_call_without_deadline_gets_the_servers_and_is_counted(server: Server) -> None:
    counted = metrics.counter(metrics.CALLS_WITHOUT_DEADLINE, "", ["method"]).labels(METHOD)
    before = counted._value.get()
    async with grpc.aio.insecure_channel(server.address) as bare:
        stub = reward_pb2_grpc.RewardServiceStub(bare)
        with pytest.raises(DeadlineExceeded, match=r"0\.5 s"):
            await call(stub.Score(request("hang")))
        with pytest.raises(DeadlineExceeded, match="stream"), translated():
            items = [reward_pb2.ScoreItem(id="1"), reward_pb2.ScoreItem(id="2", completion="hang")]
            async for _ in stub.ScoreStream(reward_pb2.ScoreStreamRequest(items=items)):
                pass
    assert counted._value.get() == before + 1


async def test_a_blocking_handler_delays_nobody(server: Server) -> None:
    async with channel(server.address) as opened:
        stub = reward_pb2_grpc.RewardServiceStub(opened)
        blocking = asyncio.ensure_future(stub.Describe(reward_pb2.DescribeRequest(), timeout=5))
        await call(stub.Score(request("x"), timeout=5))
        assert not blocking.done()
        await blocking


async def test_raw_methods_move_bytes_without_decoding() -> None:
    async with Server("weights") as server:
        raw: Any = RawWeights()
        adder = weights_pb2_grpc.add_WeightSyncServiceServicer_to_server
        server.add(adder, raw, raw_requests=["PushTensors"], raw_responses=["PushTensors"])
        with pytest.raises(ValueError, match="Pussh"):
            server.add(adder, raw, raw_requests=["Pussh"])
        await server.start()
        async with channel(server.address) as opened:
            push: Any = opened.stream_unary("/penstock.weights.v1.WeightSyncService/PushTensors")
            assert await push(iter([bytes(1 << 20)] * 8), timeout=10) == str(8 << 20).encode()


async def test_drain_finishes_calls_in_progress_and_says_not_serving(servicer: Misbehaving) -> None:
    server = Server("test", drain_seconds=0.2)
    server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
    async with server:
        await server.start()
        running = asyncio.create_task(server.wait())
        async with channel(server.address) as opened:
            watch = health_pb2_grpc.HealthStub(opened).Watch(health_pb2.HealthCheckRequest(), timeout=10)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            slow = asyncio.ensure_future(reward_pb2_grpc.RewardServiceStub(opened).Score(request("slow"), timeout=5))
            await servicer.entered.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            assert (await slow).results[0].id == "1"
        await asyncio.wait_for(running, 5)
        async with channel(server.address) as opened:
            with pytest.raises(Unavailable):
                await call(reward_pb2_grpc.RewardServiceStub(opened).Score(request("x"), timeout=1))
