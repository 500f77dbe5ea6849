"""What the commands about versions show, and what they ask for."""

import io
import pathlib
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from penstock.cli.commands import versions as module
from penstock.cli.main import app
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.weights.v1 import weights_pb2

SERVED = PolicyVersion(epoch=1, step=7, digest=bytes(range(32)))


def found() -> pb.ListVersionsResponse:
    rejected = weights_pb2.VersionInfo(
        version=PolicyVersion(epoch=1, step=8), state=weights_pb2.VERSION_STATE_REJECTED, size=3 << 20, reason="[b]NaN"
    )
    ready = weights_pb2.VersionInfo(
        version=SERVED,
        state=weights_pb2.VERSION_STATE_READY,
        size=3 << 20,
        difference=1 << 18,
        path=weights_pb2.PATH_MAPPED,
    )
    gone = weights_pb2.VersionInfo(version=PolicyVersion(epoch=1, step=1), state=weights_pb2.VERSION_STATE_RETIRED)
    receiver = weights_pb2.Receiver(name="generation-0", version=SERVED, path=weights_pb2.PATH_DIFFERENCE)
    receiver.bytes = 1 << 18
    receiver.pause.FromMilliseconds(250)
    near = weights_pb2.Receiver(name="generation-2", version=SERVED, path=weights_pb2.PATH_BULK, relay="relay-b")
    away = weights_pb2.Receiver(name="generation-1", error="OSError: full", canary=True)
    return pb.ListVersionsResponse(versions=[rejected, ready, gone], receivers=[near, away, receiver], served=SERVED)


def shown(table: Table) -> list[list[str]]:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    rows = [line.split("│")[1:-1] for line in console.export_text().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row] for row in rows]


def test_kept_versions_are_listed_and_retired_ones_when_asked_for() -> None:
    rows = shown(module._versions(found(), retired=False))
    assert [row[:6] for row in rows] == [
        ["8", "1", "rejected", "3.0", "-", "-"],
        ["7", "1", "ready, served", "3.0", "0.25", "mapped"],
    ]
    assert rows[1][6:8] == ["00010203", "2"] and rows[0][-1] == "[b]NaN"
    assert [row[2] for row in shown(module._versions(found(), retired=True))][-1] == "retired"


def test_receivers_are_listed_with_the_path_by_which_their_version_came() -> None:
    rows = shown(module._receivers(found()))
    assert rows[0][:7] == ["generation-0", "7", "1", "difference", "0.25", "0.000 s", "0.250 s"]
    assert rows[2][:4] == ["generation-2", "7", "1", "bulk, relay relay-b"]
    assert rows[1][:5] == ["generation-1 (canary)", "-", "-", "-", "-"] and rows[1][-1] == "OSError: full"


@pytest.mark.parametrize(
    ("command", "decision"),
    [
        ("promote", weights_pb2.DECISION_PROMOTE),
        ("reject", weights_pb2.DECISION_REJECT),
        ("rollback", weights_pb2.DECISION_ROLL_BACK),
    ],
)
def test_decisions_are_asked_for_by_their_names(
    command: str, decision: int, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    asked: list[Any] = []

    class Stub:
        def DecideVersion(self, request: pb.DecideVersionRequest, timeout: float) -> None:
            asked.append(request)

    def ask(run: str, runs: pathlib.Path, call: Any) -> pb.DecideVersionResponse:
        call(Stub())
        return pb.DecideVersionResponse(served=SERVED)

    monkeypatch.setattr(module, "ask", ask)
    done = CliRunner().invoke(app, [command, "r1", "7", "--reason", "worse", "--runs", str(tmp_path)])
    assert done.exit_code == 0 and "version 7 is served" in done.output
    (request,) = asked
    assert (request.step, request.decision, request.reason) == (7, decision, "worse")


def test_a_run_that_is_not_there_is_said() -> None:
    done = CliRunner().invoke(app, ["versions", "nobody", "--runs", "/nowhere"])
    assert done.exit_code == 2 and "no run 'nobody'" in done.output
