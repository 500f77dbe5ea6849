"""Commands that ask a run's coordinator, or tell it to stop or wait; they own nothing."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.table import Table

from penstock.cli.asking import Stub, ask
from penstock.cli.shown import chosen, together
from penstock.cli.words import DEFAULT_RUNS, RunName, Runs
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.histories.history import summary_of
from penstock.membership import Member, MemberState
from penstock.terminal import console, failed, plain, table_of

MOST_SAMPLES = 500


def status(run: RunName, runs: Runs = DEFAULT_RUNS, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Show a run's state: step, reward, staleness, samples."""
    summary = summary_of(runs / run)
    if summary.get("status") in ("done", "stopped", "failed") and not as_json:
        console.print(table_of(summary, run))
        return
    state = ask(run, runs, lambda stub: stub.GetRun(pb.GetRunRequest(), timeout=5)).run
    told = MessageToDict(state, preserving_proto_field_name=True)
    if as_json:
        console.print_json(data=told)
        return
    told.pop("members", None)
    console.print(table_of(told, run))
    if state.members:
        console.print(_members(state.members, datetime.datetime.now(datetime.UTC)))


def _members(members: Iterable[Member], now: datetime.datetime) -> Table:
    """Who takes part in a run."""
    table = Table("member", "state", "host", "address", "metrics", "version", "for")
    for m in members:
        word = MemberState.Name(m.state).removeprefix("MEMBER_STATE_").lower()
        since = (now - m.since.ToDatetime(datetime.UTC)).total_seconds()
        where = f"{m.host} ({m.zone})" if m.zone else m.host
        cells = (m.instance, word, where, m.address, m.metrics_address, m.version, f"{since:.0f} s")
        table.add_row(*map(plain, cells))
    return table


def watch(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """Follow a run, one line a change, until it is over."""

    async def follow(stub: Stub) -> None:
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

    ask(run, runs, follow)


def stop(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """End a run after the step in progress, with a checkpoint; the same train command resumes it."""
    ask(run, runs, lambda stub: stub.StopRun(pb.StopRunRequest(reason="penstock stop"), timeout=10))
    console.print("asked to stop")


def pause(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """Admit nothing new; what is admitted is finished."""
    ask(run, runs, lambda stub: stub.PauseRun(pb.PauseRunRequest(), timeout=10))


def resume(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """End a pause."""
    ask(run, runs, lambda stub: stub.ResumeRun(pb.ResumeRunRequest(), timeout=10))


def explain(run: RunName, runs: Runs = DEFAULT_RUNS, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Say in one sentence what the run waits for, and list every service's waits."""
    answer = ask(run, runs, lambda stub: stub.ExplainStall(pb.ExplainStallRequest(), timeout=15))
    if as_json:
        console.print_json(data=MessageToDict(answer, preserving_proto_field_name=True))
        return
    console.print(plain(answer.explanation))
    table = Table("service", "waits for", "on", "times", "since", "deadline in")
    now = datetime.datetime.now(datetime.UTC)
    for service in answer.services:
        if service.unreachable:
            why = plain(f"does not answer: {service.unreachable[:80]}")
            table.add_row(service.service, why, service.address)
        for row in together(service.waits, now):
            left = "none" if row.left is None else f"{row.left:.0f} s"
            table.add_row(service.service, plain(row.what), plain(row.on), str(row.count), f"{row.seconds:.0f} s", left)
    console.print(table)


def samples(
    run: RunName,
    runs: Runs = DEFAULT_RUNS,
    count: Annotated[int, typer.Option(min=1, max=500)] = 10,
    where: Annotated[str | None, typer.Option(help="reward<0.1, or a part of the reward by its name")] = None,
    full: Annotated[bool, typer.Option("--full", help="each sample whole, one below the other")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show the latest samples: prompt, completion, reward, versions."""
    asked = pb.ListSamplesRequest(page_size=count if where is None else MOST_SAMPLES)
    answer = ask(run, runs, lambda stub: stub.ListSamples(asked, timeout=10))
    try:
        found = list(answer.samples if where is None else chosen(answer.samples, where))[:count]
    except ValueError as error:
        raise failed(f"--where: {error}") from error
    if as_json:
        console.print_json(data=[MessageToDict(s, preserving_proto_field_name=True) for s in found])
        return
    table = Table("sample", "prompt", "completion", "reward", "versions")
    for s in found:
        reward = (
            f"{s.reward:.3f}" if s.HasField("reward") else s.outcome.detail if full else s.outcome.detail[:40] or "-"
        )
        versions = f"{s.oldest_step}..{s.newest_step}"
        if full:
            rows = {"prompt": s.prompt, "completion": s.completion, "reward": reward, "versions": versions}
            rows |= {part.name: f"{part.value:g}" for part in s.components}
            if s.branch_rewards:
                rows["earned by its contexts"] = ", ".join(f"{each:g}" for each in s.branch_rewards)
            for number, branch in enumerate(s.branches, 1):
                rows[f"branch {number}"] = "".join(turn.text for turn in branch.turns)
            console.print(table_of(rows, f"{s.group}/{s.index}"))
        else:
            table.add_row(*map(plain, (f"{s.group}/{s.index}", s.prompt, s.completion, reward, versions)))
    if not full:
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
    console.print_json(data=MessageToDict(ask(run, runs, lambda stub: stub.GetLineage(request, timeout=10))))
