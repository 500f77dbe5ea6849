"""The real rollout process against every attack of the kit; its port serves diagnostics, and it goes on working."""

import asyncio
import pathlib
import signal
import sys

import yaml

from penstock import rpc
from penstock.bus import Bus, EmbeddedServer, RunNames
from penstock.diagnostics.v1 import diagnostics_pb2 as pb
from penstock.diagnostics.v1 import diagnostics_pb2_grpc
from penstock.testing.hostile_messages import assault
from penstock.tiny_model import make_model

SERVICE = pb.DESCRIPTOR.services_by_name["DiagnosticsService"]


async def test_the_process_withstands_hostile_requests(
    nats: EmbeddedServer, bus: Bus, names: RunNames, tmp_path: pathlib.Path
) -> None:
    make_model(tmp_path / "model", hidden=32, layers=1, intermediate=64)
    (tmp_path / "train.jsonl").write_text('{"prompt": "ba"}\n')
    recipe = {
        "run": names.run,
        "model": {"path": str(tmp_path / "model")},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 1, "groups_per_step": 1, "group_size": 2},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    flags = ["--recipe", str(tmp_path / "recipe.yaml"), "--nats", nats.url, "--announce", str(tmp_path / "address")]
    flags += ["--generation", "127.0.0.1:1", "--environment", "127.0.0.1:1"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.rollout", *flags)
    try:
        async with asyncio.timeout(60):
            while not (tmp_path / "address").exists():
                assert process.returncode is None
                await asyncio.sleep(0.02)
        address = (tmp_path / "address").read_text()
        assert await assault(address, SERVICE, {}) == []
        async with rpc.channel(address, default_seconds=10) as channel:
            stub = diagnostics_pb2_grpc.DiagnosticsServiceStub(channel)
            assert (await rpc.call(stub.ListWaits(pb.ListWaitsRequest()))).service == "rollout"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
