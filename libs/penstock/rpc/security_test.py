from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.access import Identity
from penstock.reward.v1 import reward_pb2_grpc
from penstock.rpc import Security, Server, call, channel
from penstock.rpc.conftest import Misbehaving, request
from penstock.rpc.errors import Unauthenticated, Unavailable
from penstock.telemetry import metrics
from penstock.testing.certificates import issue


async def _score(address: str, security: Security) -> None:
    async with channel(address, security=security) as opened:
        await call(reward_pb2_grpc.RewardServiceStub(opened).Score(request("x"), timeout=3))


async def test_mutual_tls_admits_only_certificates_of_the_authority(servicer: Misbehaving, tmp_path: Path) -> None:
    ca, _ = issue(tmp_path, "ca")
    issue(tmp_path, "stranger")

    def held(name: str, issuer: str) -> Security:
        certificate, key = issue(tmp_path, name, issuer)
        return Security.of_files(authority=ca, certificate=certificate, key=key)

    server_side, learner, imposter = held("server", "ca"), held("learner", "ca"), held("imposter", "stranger")
    async with Server("test", security=server_side) as server:
        server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
        await server.start()
        await _score(server.address, learner)
        for wrong in (imposter, Security.of_files(authority=ca), Security()):
            with pytest.raises(Unavailable):
                await _score(server.address, wrong)
    assert servicer.calls == 1


async def test_a_token_is_demanded_except_for_health(servicer: Misbehaving) -> None:
    async with Server("test", security=Security(token="right")) as server:
        server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
        await server.start()
        await _score(server.address, Security(token="right"))
        for wrong in (Security(), Security(token="wrong")):
            with pytest.raises(Unauthenticated):
                await _score(server.address, wrong)
        async with channel(server.address) as opened:
            stub = health_pb2_grpc.HealthStub(opened)
            await call(stub.Check(health_pb2.HealthCheckRequest(), timeout=3))
            garbage: Any = opened.unary_unary("/penstock.reward.v1.RewardService/Score")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await garbage(b"\xff\xff", timeout=3)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert servicer.calls == 1


def test_settings_that_contradict_are_refused() -> None:
    with pytest.raises(ValueError, match="x: certificate and key belong together"):
        Security.of_files(certificate="x")
    with pytest.raises(ValueError, match="must know its callers"):
        Security(identity=Identity("learner", "s")).check_listening("127.0.0.1:0")
    with pytest.raises(ValueError, match="needs TLS"):
        Security(identity=Identity("learner", "s")).check_address("10.0.0.7:80")
    with pytest.raises(ValueError, match="empty"):
        Security(token=" ")
    with pytest.raises(ValueError, match="needs TLS"):
        Security(token="x").check_address("10.0.0.7:80")
    Security(token="x").check_address("unix:/tmp/x")
    assert "secret" not in repr(Security(token="secret"))


async def test_refused_calls_are_counted_and_logged(servicer: Misbehaving, caplog: pytest.LogCaptureFixture) -> None:
    method = "/penstock.reward.v1.RewardService/Score"
    counted = metrics.counter(metrics.CALLS_REFUSED, "", ["method"]).labels(method)
    before = counted._value.get()
    async with Server("test", security=Security(token="right")) as server:
        server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
        await server.start()
        for wrong in (Security(), Security(token="wrong")):
            with pytest.raises(Unauthenticated):
                await _score(server.address, wrong)
        await _score(server.address, Security(token="right"))
    assert counted._value.get() == before + 2
    assert "it shows no token" in caplog.text and "it shows a wrong token" in caplog.text
    assert "wrong\n" not in caplog.text.replace("wrong token\n", ""), "the token itself is not logged"
