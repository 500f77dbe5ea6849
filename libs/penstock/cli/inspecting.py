"""Commands that ask about a run or a recipe; they own nothing."""

from __future__ import annotations

import asyncio
import json
import pathlib
import shutil
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from penstock import rpc
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.memory_plan import GIB
from penstock.recipes import RecipeError, dump, load
from penstock.recipes.needs import Needs
from penstock.sdk.conformance import check_environment, check_reward

app = typer.Typer()
console = Console()
T = TypeVar("T")

RunName = Annotated[str, typer.Argument(help="the run's name")]
Runs = Annotated[pathlib.Path, typer.Option("--runs", help="folder of run directories")]
DEFAULT_RUNS = pathlib.Path("runs")


def failed(message: str, code: int = 2) -> typer.Exit:
    """Says why a command ends; to be raised."""
    Console(stderr=True).print(message, style="red", markup=False, highlight=False)
    return typer.Exit(code)


def unknown_run(run: str, runs: pathlib.Path) -> str:
    """That there is no such run, and which there are."""
    known = ", ".join(sorted(p.parent.name for p in runs.glob("*/recipe.yaml"))) or "none"
    return f"no run {run!r} below {runs} (runs there: {known})"


def _ask(
    run: str, runs: pathlib.Path, call: Callable[[coordinator_pb2_grpc.CoordinatorServiceAsyncStub], Awaitable[T]]
) -> T:
    """Asks the run's coordinator; ends the command with a clear line if it cannot be asked."""
    path = runs / run / "addresses.json"
    if not path.is_file():
        raise failed(unknown_run(run, runs))
    address = json.loads(path.read_text())["coordinator"]

    async def ask() -> T:
        async with rpc.channel(address) as channel:
            return await rpc.call(call(coordinator_pb2_grpc.CoordinatorServiceStub(channel)))

    try:
        return asyncio.run(ask())
    except rpc.errors.Unavailable as error:
        raise failed(f"the coordinator of {run!r} ({address}) does not answer; is the run under way?", 1) from error
    except rpc.RpcError as error:
        raise failed(str(error), 1) from error


def _table(rows: dict[str, Any], title: str) -> Table:
    table = Table(title=title, show_header=False)
    for key, value in rows.items():
        table.add_row(key, str(value))
    return table


@app.command()
def status(run: RunName, runs: Runs = DEFAULT_RUNS, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Show a run's state: step, reward, staleness, samples."""
    path = runs / run / "summary.json"
    if path.is_file() and json.loads(path.read_text())["status"] in ("done", "stopped", "failed"):
        summary = json.loads(path.read_text())
        console.print_json(data=summary) if as_json else console.print(_table(summary, run))
        return
    state = _ask(run, runs, lambda stub: stub.GetRun(pb.GetRunRequest(), timeout=5)).run
    plain = MessageToDict(state, preserving_proto_field_name=True)
    console.print_json(data=plain) if as_json else console.print(_table(plain, run))


@app.command()
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


@app.command()
def stop(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """End a run after the step in progress, with a checkpoint; the same train command resumes it."""
    _ask(run, runs, lambda stub: stub.StopRun(pb.StopRunRequest(reason="penstock stop"), timeout=10))
    console.print("asked to stop")


@app.command()
def pause(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """Admit nothing new; what is admitted is finished."""
    _ask(run, runs, lambda stub: stub.PauseRun(pb.PauseRunRequest(), timeout=10))


@app.command()
def resume(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """End a pause."""
    _ask(run, runs, lambda stub: stub.ResumeRun(pb.ResumeRunRequest(), timeout=10))


@app.command()
def explain(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """Say in one sentence what the run waits for, and list every service's waits."""
    answer = _ask(run, runs, lambda stub: stub.ExplainStall(pb.ExplainStallRequest(), timeout=15))
    console.print(answer.explanation, highlight=False)
    table = Table("service", "waits for", "on", "since", "deadline")
    for service in answer.services:
        if service.unreachable:
            table.add_row(service.service, f"does not answer: {service.unreachable[:80]}", service.address, "", "")
        for wait in service.waits:
            deadline = wait.deadline.ToJsonString() if wait.HasField("deadline") else "none"
            table.add_row(service.service, wait.what, wait.on, wait.since.ToJsonString(), deadline)
    console.print(table)


@app.command()
def samples(run: RunName, runs: Runs = DEFAULT_RUNS, count: Annotated[int, typer.Option(min=1, max=500)] = 10) -> None:
    """Show the latest samples: prompt, completion, reward, versions."""
    answer = _ask(run, runs, lambda stub: stub.ListSamples(pb.ListSamplesRequest(page_size=count), timeout=10))
    table = Table("sample", "prompt", "completion", "reward", "versions")
    for s in answer.samples:
        reward = f"{s.reward:.3f}" if s.HasField("reward") else s.outcome.detail[:40] or "-"
        versions = f"{s.oldest_step}..{s.newest_step}"
        table.add_row(f"{s.group}/{s.index}", s.prompt, s.completion, reward, versions)
    console.print(table)


@app.command()
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


@app.command()
def export(run: RunName, to: Annotated[pathlib.Path, typer.Option("--to")], runs: Runs = DEFAULT_RUNS) -> None:
    """Copy a finished run's model (Hugging Face format) to a directory."""
    source = runs / run / "export"
    if not (source / "config.json").is_file():
        raise failed(f"{source} has no model; it is written when the run is done")
    if to.exists() and any(to.iterdir()):
        raise failed(f"{to} is not empty")
    shutil.copytree(source, to, dirs_exist_ok=True)
    console.print(f"exported to {to}")


@app.command()
def config(
    recipe: Annotated[pathlib.Path, typer.Argument(help="recipe file (YAML)")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value")] = None,
) -> None:
    """Check a recipe and print it resolved, with what it implies."""
    try:
        resolved = load(recipe, overrides or [])
    except RecipeError as error:
        raise failed(str(error)) from error
    a, learner = resolved.algorithm, resolved.learner
    split = learner.parallel.tensor * learner.parallel.pipeline * learner.parallel.context
    console.print(dump(resolved), highlight=False, markup=False, end="")
    implied = {
        "samples per step": a.groups_per_step * a.group_size,
        "groups in flight at most": resolved.groups_budget,
        "samples in all": a.steps * a.groups_per_step * a.group_size,
        "data parallel ranks": learner.ranks // split,
    }
    errors = Console(stderr=True)
    errors.print(_table(implied, "implies"))
    needs = Needs.of(resolved)
    if needs is None:
        errors.print(f"memory: the shapes of {resolved.model.path} cannot be read", markup=False, highlight=False)
    else:
        errors.print(_memory(needs, learner.device_gib))


def _memory(needs: Needs, device_gib: float | None) -> Table:
    """What a rank of each pipeline stage needs."""
    table = Table(
        "",
        *(f"stage {i}" for i in range(len(needs.stages))),
        title=f"memory of a learner rank, {needs.shapes.parameters / 1e6:,.1f} M parameters in all",
        caption=f"beside, on the host: {_size(needs.version)} with rank 0 while a version is published, "
        f"{_size(max(s.state for s in needs.stages))} with each rank while a checkpoint is written",
    )
    table.add_row("parameters", *(f"{s.parameters / 1e6:,.1f} M" for s in needs.stages))
    parts = dict.fromkeys(part for s in needs.stages for part in s.parts)
    for part in parts:
        table.add_row(part, *(_size(s.parts.get(part, 0)) for s in needs.stages))
    table.add_section()
    table.add_row("in all", *(_size(s.total) for s in needs.stages))
    if device_gib is not None:
        shares = (f"{s.total / GIB / device_gib:.0%}" for s in needs.stages)
        table.add_row(f"of {device_gib:g} GiB", *shares)
    table.add_section()
    for part in dict.fromkeys(part for s in needs.stages for part in s.on_host):
        table.add_row(f"{part}, on the host", *(_size(s.on_host.get(part, 0)) for s in needs.stages))
    return table


def _size(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / 2**20:,.1f} MiB"


@app.command()
def conformance(
    address: Annotated[str, typer.Argument(help="HOST:PORT of a reward or environment service")],
    kind: Annotated[str, typer.Option(help="reward or environment")] = "reward",
    name: Annotated[str, typer.Option(help="the reward's or environment's name; empty means the only one")] = "",
    row: Annotated[str, typer.Option(help="a data set row as JSON, for services that need certain fields")] = "",
) -> None:
    """Check somebody else's reward or environment service against the contract."""
    try:
        fields = json.loads(row) if row else None
    except ValueError as error:
        raise failed(f"--row: {row!r} is not JSON ({error})") from error
    if kind not in ("reward", "environment"):
        raise failed(f"--kind: {kind!r} is not one of reward, environment")
    try:
        if kind == "reward":
            report = asyncio.run(check_reward(address, reward=name, row=fields))
        else:
            report = asyncio.run(check_environment(address, environment=name, row=fields))
    except rpc.RpcError as error:
        raise failed(f"{address} does not answer: {error}", 1) from error
    for each in report.checks:
        mark = "[green]kept[/green]  " if each.passed else "[red]broken[/red]"
        console.print(f"{mark} {each.name}" + (f": {each.detail}" if each.detail else ""), highlight=False)
    console.print("passed" if report.passed else "failed")
    raise typer.Exit(0 if report.passed else 1)
