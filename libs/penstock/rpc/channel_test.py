from __future__ import annotations

import asyncio

import pytest
from opentelemetry import context

from penstock.reward.v1 import reward_pb2, reward_pb2_grpc
from penstock.rpc import FOREIGN, Server, Transport, call, channel, ready
from penstock.rpc.conftest import FaultProxy, Misbehaving, request
from penstock.rpc.errors import DeadlineExceeded, ResourceExhausted, RpcError, Unavailable
from penstock.telemetry.tracing import extract_string

SERVICE = "penstock.reward.v1.RewardService"


async def test_every_call_carries_a_deadline_to_the_server(server: Server, servicer: Misbehaving) -> None:
    """By an interceptor: the service config's `timeout` fires early and does not reach the server."""
    async with channel(server.address, default_seconds=7, stream_seconds=70) as opened:
        stub = reward_pb2_grpc.RewardServiceStub(opened)
        await call(stub.Score(request("x")))
        assert servicer.remaining is not None and 6 < servicer.remaining < 7.5
        await call(stub.Score(request("x"), timeout=3))
        assert 2 < servicer.remaining < 3.5
        async for _ in stub.ScoreStream(reward_pb2.ScoreStreamRequest(items=[reward_pb2.ScoreItem(id="1")])):
            pass
        assert 69 < servicer.remaining < 70.5


async def test_a_call_in_a_trace_that_is_not_kept_says_so_to_the_server(server: Server, servicer: Misbehaving) -> None:
    """So that the server does not begin a trace of its own for it."""
    left_out = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    token = context.attach(extract_string(left_out))
    try:
        async with channel(server.address) as opened:
            await call(reward_pb2_grpc.RewardServiceStub(opened).Score(request("x")))
    finally:
        context.detach(token)
    assert servicer.traceparent == left_out


async def test_a_deadline_ends_the_call_on_time(server: Server) -> None:
    async with channel(server.address) as opened:
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(DeadlineExceeded):
            await call(reward_pb2_grpc.RewardServiceStub(opened).Score(request("hang"), timeout=0.4))
        assert 0.3 < loop.time() - started < 1.5


async def test_only_idempotent_methods_are_repeated(server: Server, servicer: Misbehaving) -> None:
    async with channel(server.address) as opened:
        with pytest.raises(Unavailable) as caught:
            await call(reward_pb2_grpc.RewardServiceStub(opened).Score(request("flaky"), timeout=5))
        assert caught.value.retry_after == pytest.approx(0.01)
    assert servicer.calls == 1
    servicer.calls = 0
    async with channel(server.address, idempotent=[f"{SERVICE}/Score"]) as opened:
        await call(reward_pb2_grpc.RewardServiceStub(opened).Score(request("flaky"), timeout=5))
    assert servicer.calls == 3


async def test_details_reach_the_caller(server: Server) -> None:
    async with channel(server.address) as opened:
        with pytest.raises(ResourceExhausted, match="queue full") as caught:
            await call(reward_pb2_grpc.RewardServiceStub(opened).Score(request("overload"), timeout=5))
    assert (caught.value.reason, caught.value.retry_after) == ("REWARD_QUEUE_FULL", 2.5)
    assert isinstance(caught.value, RpcError)


async def test_a_black_hole_is_noticed_long_before_the_deadline(server: Server) -> None:
    transport = Transport(keepalive_seconds=1, ping_seconds=1)
    async with FaultProxy(server.address) as proxy, channel(proxy.address, transport=transport) as opened:
        stub = reward_pb2_grpc.RewardServiceStub(opened)
        await call(stub.Score(request("x"), timeout=5))
        proxy.black_hole()
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(Unavailable):
            await call(stub.Score(request("x"), timeout=30))
        assert loop.time() - started < 8


async def test_a_replacement_is_found_quickly(servicer: Misbehaving) -> None:
    async with Server("first") as first:
        first.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
        await first.start()
        address = first.address
        opened = channel(address)
        stub = reward_pb2_grpc.RewardServiceStub(await opened.__aenter__())
        await call(stub.Score(request("x"), timeout=5))
    with pytest.raises(Unavailable):
        await call(stub.Score(request("x"), timeout=2))
    async with Server("second", address) as second:
        second.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
        await second.start()
        await call(stub.Score(request("x"), timeout=5, wait_for_ready=True))
        await opened.__aexit__(None, None, None)


async def test_nobody_there_is_named() -> None:
    async with channel("127.0.0.1:1") as opened:
        with pytest.raises(DeadlineExceeded, match="127.0.0.1:1 is not reachable"):
            await ready(opened, "127.0.0.1:1", within=0.3)


def test_foreign_servers_are_probed_no_more_than_a_stock_one_allows() -> None:
    """More often than every five minutes without data, or at all without a call, it takes for an attack: a score of 62
    s on a plain grpcio server ended after 50 s with "Too many pings"."""
    options = dict(FOREIGN.channel_options())
    assert options["grpc.keepalive_time_ms"] > 300_000 and not options["grpc.keepalive_permit_without_calls"]
    assert dict(Transport().channel_options())["grpc.keepalive_permit_without_calls"], "our own are told apart fast"
