"""The real gateway process against every attack of the kit; it goes on serving, by gRPC and by HTTP."""

import asyncio
import pathlib
import secrets
import signal
import sys
import urllib.error
import urllib.request

import pytest
import yaml

from penstock import rpc
from penstock.bus import Bus, EmbeddedServer, RunNames
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1 import gateway_pb2_grpc
from penstock.testing.fake_engine import FakeEngine, serving
from penstock.testing.hostile_messages import assault
from penstock.tiny_model import make_model
from penstock.trajectory.v1 import trajectory_pb2
from services.gateway.run_testing import task

SERVICE = pb.DESCRIPTOR.services_by_name["GatewayService"]


def opening() -> pb.OpenSessionRequest:
    made = task()
    made.rollout.task.source = "sorting_agent"
    request = pb.OpenSessionRequest(key=secrets.token_urlsafe(32), task=made)
    request.lifetime.FromSeconds(60)
    return request


def models(url: str, key: str) -> bytes:
    request = urllib.request.Request(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


async def test_the_process_withstands_hostile_requests(
    nats: EmbeddedServer, bus: Bus, names: RunNames, tmp_path: pathlib.Path
) -> None:
    make_model(tmp_path / "model", hidden=32, layers=1, intermediate=64)
    (tmp_path / "train.jsonl").write_text('{"prompt": "ba"}\n')
    recipe = {
        "run": names.run,
        "model": {"path": str(tmp_path / "model")},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "environment": {"name": "sorting_agent", "agent": True},
        "algorithm": {"steps": 1, "groups_per_step": 1, "group_size": 2},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    flags = ["--recipe", str(tmp_path / "recipe.yaml"), "--nats", nats.url, "--announce", str(tmp_path / "address")]
    async with serving(FakeEngine()) as (engine,):
        await withstands([*flags, "--generation", engine], tmp_path / "address")


async def withstands(flags: list[str], announced: pathlib.Path) -> None:
    """The process, attacked, and then asked what it is for."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.gateway", *flags)
    try:
        async with asyncio.timeout(60):
            while not announced.exists():
                assert process.returncode is None
                await asyncio.sleep(0.02)
        address = announced.read_text()
        valid = {"OpenSession": opening(), "CloseSession": pb.CloseSessionRequest()}
        assert await assault(address, SERVICE, valid) == []
        async with rpc.channel(address, default_seconds=10) as channel:
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)
            request = opening()
            url = (await rpc.call(stub.OpenSession(request))).url
            assert b'"object":"list"' in await asyncio.to_thread(models, url, request.key)
            closed = await rpc.call(stub.CloseSession(pb.CloseSessionRequest(key=request.key)))
            assert closed == pb.CloseSessionResponse(generating={})
            with pytest.raises(urllib.error.HTTPError, match="401"):
                await asyncio.to_thread(models, url, request.key)
            other = opening()
            other.task.kind = trajectory_pb2.TASK_KIND_UNSPECIFIED
            with pytest.raises(rpc.RpcError, match="kind"):
                await rpc.call(stub.OpenSession(other))
            other = opening()
            other.task.rollout.task.source = "nowhere"
            with pytest.raises(rpc.RpcError, match="sources of agents: sorting_agent"):
                await rpc.call(stub.OpenSession(other))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
