"""`penstock-conformance`, and `penstock conformance` which is the same: a service held against its contract."""

import asyncio
import json
from typing import Annotated

import typer
from rich.text import Text

from penstock import rpc
from penstock.sdk.conformance import check_agent, check_environment, check_reward
from penstock.system import exits
from penstock.terminal import console, failed, plain


def conformance(
    address: Annotated[str, typer.Argument(help="HOST:PORT of a service of rewards, environments or agents")],
    kind: Annotated[str, typer.Option(help="reward, environment or agent")] = "reward",
    name: Annotated[str, typer.Option(help="the name of what is served; empty means the only one")] = "",
    row: Annotated[str, typer.Option(help="a data set row as JSON, for services that need certain fields")] = "",
) -> None:
    """Check somebody else's reward, environment or agent service against the contract."""
    try:
        fields = json.loads(row) if row else None
    except ValueError as error:
        raise failed(f"--row: {row!r} is not JSON ({error})") from error
    if kind not in ("reward", "environment", "agent"):
        raise failed(f"--kind: {kind!r} is not one of reward, environment, agent")
    try:
        if kind == "reward":
            report = asyncio.run(check_reward(address, reward=name, row=fields))
        elif kind == "agent":
            report = asyncio.run(check_agent(address, agent=name, row=fields))
        else:
            report = asyncio.run(check_environment(address, environment=name, row=fields))
    except rpc.RpcError as error:
        raise failed(f"{address} does not answer: {error}", exits.FAILED) from error
    for each in report.checks:
        mark = "[green]kept[/green]  " if each.passed else "[red]broken[/red]"
        mark, detail = (mark, each.detail) if each.offered else ("[dim]absent[/dim]", "not offered, and need not be")
        said = plain(f" {each.name}" + (f": {detail}" if detail else ""))
        console.print(Text.from_markup(mark) + said)
    console.print("passed" if report.passed else "failed")
    raise typer.Exit(exits.DONE if report.passed else exits.FAILED)


def main() -> None:
    """The console entry point of `penstock-conformance`."""
    typer.run(conformance)
