"""Commands that ask a run's coordinator, or tell it to stop or wait; they own nothing."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from google.protobuf.json_format import MessageToDict
from rich.table import Table

from penstock import rpc
from penstock.cli.credentials import security_of
from penstock.cli.words import DEFAULT_RUNS, RunName, Runs, console, failed, plain, table_of, unknown_run
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.system import exits

T = TypeVar("T")


def status(run: RunName, runs: Runs = DEFAULT_RUNS, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Show a run's state: step, reward, staleness, samples."""
    path = runs / run / "summary.json"
    if path.is_file() and json.loads(path.read_text())["status"] in ("done", "stopped", "failed"):
        summary = json.loads(path.read_text())
        console.print_json(data=summary) if as_json else console.print(table_of(summary, run))
        return
    state = _ask(run, runs, lambda stub: stub.GetRun(pb.GetRunRequest(), timeout=5)).run
    plain = MessageToDict(state, preserving_proto_field_name=True)
    console.print_json(data=plain) if as_json else console.print(table_of(plain, run))


def watch(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """Follow a run, one line a change, until it is over."""

    async def follow(stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub) -> None:
        said = ""
        async for answer in stub.WatchRun(pb.WatchRunRequest()):
            r = answer.run
            state = pb.RunState.Name(r.state).removeprefix("RUN_STATE_").lower()
            reward = r.metrics.get("rl.reward.mean")
            shown = "" if reward is None else f"  reward {reward:.3f}"
            line = f"{state}  step {r.step}/{r.max_steps}{shown}"
            if line != said:
                said = line
                console.print(line, highlight=False)
            if r.state in (pb.RUN_STATE_DONE, pb.RUN_STATE_STOPPED, pb.RUN_STATE_FAILED):
                return

    _ask(run, runs, follow)


def stop(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """End a run after the step in progress, with a checkpoint; the same train command resumes it."""
    _ask(run, runs, lambda stub: stub.StopRun(pb.StopRunRequest(reason="penstock stop"), timeout=10))
    console.print("asked to stop")


def pause(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """Admit nothing new; what is admitted is finished."""
    _ask(run, runs, lambda stub: stub.PauseRun(pb.PauseRunRequest(), timeout=10))


def resume(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """End a pause."""
    _ask(run, runs, lambda stub: stub.ResumeRun(pb.ResumeRunRequest(), timeout=10))


def explain(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """Say in one sentence what the run waits for, and list every service's waits."""
    answer = _ask(run, runs, lambda stub: stub.ExplainStall(pb.ExplainStallRequest(), timeout=15))
    console.print(plain(answer.explanation))
    table = Table("service", "waits for", "on", "since", "deadline")
    for service in answer.services:
        if service.unreachable:
            table.add_row(
                service.service, plain(f"does not answer: {service.unreachable[:80]}"), service.address, "", ""
            )
        for wait in service.waits:
            deadline = wait.deadline.ToJsonString() if wait.HasField("deadline") else "none"
            what, on = plain(wait.what), plain(wait.on)
            table.add_row(service.service, what, on, wait.since.ToJsonString(), deadline)
    console.print(table)


def samples(run: RunName, runs: Runs = DEFAULT_RUNS, count: Annotated[int, typer.Option(min=1, max=500)] = 10) -> None:
    """Show the latest samples: prompt, completion, reward, versions."""
    answer = _ask(run, runs, lambda stub: stub.ListSamples(pb.ListSamplesRequest(page_size=count), timeout=10))
    table = Table("sample", "prompt", "completion", "reward", "versions")
    for s in answer.samples:
        reward = f"{s.reward:.3f}" if s.HasField("reward") else s.outcome.detail[:40] or "-"
        versions = f"{s.oldest_step}..{s.newest_step}"
        table.add_row(*map(plain, (f"{s.group}/{s.index}", s.prompt, s.completion, reward, versions)))
    console.print(table)


def lineage(
    run: RunName,
    runs: Runs = DEFAULT_RUNS,
    sample: Annotated[str | None, typer.Option(help="GROUP/INDEX")] = None,
    step: Annotated[int | None, typer.Option(help="optimizer step", min=1)] = None,
) -> None:
    """From a sample to the step that trained it, or from a step to its samples."""
    if (sample is None) == (step is None):
        raise failed("give exactly one of --sample GROUP/INDEX and --step K")
    request = pb.GetLineageRequest(sample=sample) if sample is not None else pb.GetLineageRequest(step=step or 0)
    console.print_json(data=MessageToDict(_ask(run, runs, lambda stub: stub.GetLineage(request, timeout=10))))


def _ask(
    run: str, runs: pathlib.Path, call: Callable[[coordinator_pb2_grpc.CoordinatorServiceAsyncStub], Awaitable[T]]
) -> T:
    """Asks the run's coordinator; ends the command with a clear line if it cannot be asked."""
    path = runs / run / "addresses.json"
    if not path.is_file():
        raise failed(unknown_run(run, runs))
    try:
        address, security = json.loads(path.read_text())["coordinator"], security_of(runs / run)
    except OSError as error:
        raise failed(f"run {run!r} is another user's: {error}") from error

    async def ask() -> T:
        async with rpc.channel(address, security=security) as channel:
            return await rpc.call(call(coordinator_pb2_grpc.CoordinatorServiceStub(channel)))

    try:
        return asyncio.run(ask())
    except rpc.errors.Unavailable as error:
        raise failed(
            f"the coordinator of {run!r} ({address}) does not answer; is the run under way?", exits.FAILED
        ) from error
    except rpc.RpcError as error:
        raise failed(str(error), exits.FAILED) from error
