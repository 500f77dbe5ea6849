"""`penstock versions`, `promote`, `reject`, `rollback`: a run's policy versions, and what people decide of them."""

import datetime
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.table import Table

from penstock.cli.asking import ask
from penstock.cli.words import DEFAULT_RUNS, RunName, Runs
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.terminal import console, plain
from penstock.weights.v1 import weights_pb2

ASK_SECONDS = 15
MIB = 1 << 20
Step = Annotated[int, typer.Argument(min=0, help="the version: the step that made it")]
Reason = Annotated[str, typer.Option(help="kept with the version, and in the ledger")]


def versions(
    run: RunName,
    runs: Runs = DEFAULT_RUNS,
    receivers: Annotated[bool, typer.Option("--receivers", help="who holds which, and how it came there")] = False,
    retired: Annotated[bool, typer.Option("--all", help="those that are no longer kept, too")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """List the policy versions that weight_sync knows, newest first."""
    found = ask(run, runs, lambda stub: stub.ListVersions(pb.ListVersionsRequest(), timeout=ASK_SECONDS))
    if as_json:
        console.print_json(data=MessageToDict(found, preserving_proto_field_name=True))
        return
    console.print(_receivers(found) if receivers else _versions(found, retired))


def promote(run: RunName, step: Step, runs: Runs = DEFAULT_RUNS, reason: Reason = "") -> None:
    """Let a version be served: one that waits behind a rollback, or was rejected."""
    _decide(run, runs, step, weights_pb2.DECISION_PROMOTE, reason)


def reject(run: RunName, step: Step, runs: Runs = DEFAULT_RUNS, reason: Reason = "") -> None:
    """Never serve a version again; engines that hold it go back to the newest promoted one."""
    _decide(run, runs, step, weights_pb2.DECISION_REJECT, reason)


def rollback(run: RunName, step: Step, runs: Runs = DEFAULT_RUNS, reason: Reason = "") -> None:
    """Serve an older version that is still kept, until a newer one is promoted; what is trained meanwhile waits."""
    _decide(run, runs, step, weights_pb2.DECISION_ROLL_BACK, reason)


def _decide(run: str, runs: Runs, step: int, decision: weights_pb2.Decision, reason: str) -> None:
    request = pb.DecideVersionRequest(step=step, decision=decision, reason=reason)
    answer = ask(run, runs, lambda stub: stub.DecideVersion(request, timeout=ASK_SECONDS))
    console.print(plain(f"version {answer.served.step} is served"))


def _versions(found: pb.ListVersionsResponse, retired: bool) -> Table:
    table = Table("version", "epoch", "state", "MiB", "difference", "path", "digest", "held by", "made", "reason")
    for info in found.versions:
        if info.state == weights_pb2.VERSION_STATE_RETIRED and not retired:
            continue
        version, state = info.version, weights_pb2.VersionState.Name(info.state).removeprefix("VERSION_STATE_").lower()
        served = found.HasField("served") and (version.step, version.epoch) == (found.served.step, found.served.epoch)
        holders = sum((r.version.step, r.version.epoch) == (version.step, version.epoch) for r in found.receivers)
        cells = (
            str(version.step),
            str(version.epoch),
            f"{state}, served" if served else state,
            f"{info.size / MIB:.1f}",
            f"{info.difference / MIB:.2f}" if info.difference else "-",
            _path(info.path),
            version.digest.hex()[:8],
            str(holders) if holders else "-",
            f"{info.created_at.ToDatetime(datetime.UTC):%H:%M:%S}",
            info.reason,
        )
        table.add_row(*map(plain, cells))
    return table


def _receivers(found: pb.ListVersionsResponse) -> Table:
    table = Table("receiver", "version", "epoch", "path", "MiB", "transfer", "pause", "seen", "error")
    for r in sorted(found.receivers, key=lambda r: r.name):
        held = r.HasField("version")
        cells = (
            f"{r.name} (canary)" if r.canary else r.name,
            str(r.version.step) if held else "-",
            str(r.version.epoch) if held else "-",
            f"{_path(r.path)}, relay {r.relay}" if r.relay else _path(r.path),
            f"{r.bytes / MIB:.2f}" if held else "-",
            f"{r.transfer.ToTimedelta().total_seconds():.3f} s" if held else "-",
            f"{r.pause.ToTimedelta().total_seconds():.3f} s" if held else "-",
            f"{r.seen_at.ToDatetime(datetime.UTC):%H:%M:%S}",
            r.error,
        )
        table.add_row(*map(plain, cells))
    return table


def _path(path: weights_pb2.Path) -> str:
    """How bytes came, where that is known."""
    return weights_pb2.Path.Name(path).removeprefix("PATH_").lower() if path else "-"
