"""A run whose directory is elsewhere is asked where its coordinator is said to be, and no other run is."""

import asyncio
import pathlib
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from penstock import rpc
from penstock.cli.asking import TLS
from penstock.cli.main import app
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.kube.containers import COORDINATOR
from penstock.testing.certificates import issue_kinds


class Coordinator(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """That of r1."""

    DecideVersion: ClassVar[Any]
    ExplainStall: ClassVar[Any]
    GetLineage: ClassVar[Any]
    GetSample: ClassVar[Any]
    ListSamples: ClassVar[Any]
    ListSteps: ClassVar[Any]
    ListVersions: ClassVar[Any]
    PauseRun: ClassVar[Any]
    ResumeRun: ClassVar[Any]
    WatchRun: ClassVar[Any]

    def __init__(self) -> None:
        self.stopped = 0

    async def GetRun(self, request: Any, context: Any) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=pb.Run(name="r1", step=7))

    async def StopRun(self, request: Any, context: Any) -> pb.StopRunResponse:
        self.stopped += 1
        return pb.StopRunResponse()


@pytest_asyncio.fixture
async def coordinator(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Coordinator]:
    made = Coordinator()
    async with rpc.Server("coordinator") as server:
        server.add(coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server, made)
        await server.start()
        monkeypatch.setenv(COORDINATOR, server.address)
        yield made


async def test_the_operator_shows_a_certificate_to_a_coordinator_that_wants_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a Secret of Kubernetes has it, to what `kubectl port-forward` reaches."""
    authority = issue_kinds(tmp_path, "coordinator", "operator", "rollout")
    held = [tmp_path / f"coordinator.{end}" for end in ("crt", "key")]
    own = rpc.Security.of_files(authority=authority, certificate=held[0], key=held[1], named=True)
    async with rpc.Server("coordinator", security=own) as server:
        server.add(coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server, Coordinator())
        await server.start()
        monkeypatch.setenv(COORDINATOR, server.address)
        for kind, code, said in (("operator", 0, "│ step │ 7"), ("rollout", 1, "rollout may not call")):
            folder = tmp_path / f"of-{kind}"
            folder.mkdir()
            for name, file in (("ca.crt", "ca.crt"), ("tls.crt", f"{kind}.crt"), ("tls.key", f"{kind}.key")):
                (folder / name).write_bytes((tmp_path / file).read_bytes())
            monkeypatch.setenv(TLS, str(folder))
            done = await told(tmp_path, "status", "r1")
            assert done.exit_code == code and said in " ".join(done.output.split()), done.output


async def told(tmp_path: pathlib.Path, *words: str) -> Any:
    return await asyncio.to_thread(CliRunner().invoke, app, [*words, "--runs", str(tmp_path)])


async def test_a_run_without_a_directory_here_is_asked_where_it_is_said_to_be(
    coordinator: Coordinator, tmp_path: pathlib.Path
) -> None:
    status = await told(tmp_path, "status", "r1", "--json")
    assert status.exit_code == 0 and '"step": "7"' in status.output, status.output
    assert (await told(tmp_path, "stop", "r1")).exit_code == 0 and coordinator.stopped == 1


async def test_another_run_of_that_address_is_left_alone(coordinator: Coordinator, tmp_path: pathlib.Path) -> None:
    refused = await told(tmp_path, "stop", "r2")
    assert refused.exit_code == 2 and "is that of 'r1'" in " ".join(refused.output.split()), refused.output
    assert coordinator.stopped == 0
