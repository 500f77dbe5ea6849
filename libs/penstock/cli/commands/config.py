"""`penstock config`: a recipe resolved, with what it implies and what it needs."""

import asyncio
import pathlib
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from penstock.chat import TemplateError
from penstock.cli.adapters import unadapted
from penstock.cli.chats import chat_of, ends
from penstock.cli.drafting import undraftable
from penstock.cli.foreign import unreachable
from penstock.memory_plan import GIB
from penstock.recipes import Recipe, RecipeError, dump, load
from penstock.recipes.checks.packages import check_packages
from penstock.recipes.needs import Needs
from penstock.recipes.pinning import pinned
from penstock.supervisor.plan import LESS_MEMORY
from penstock.system.host_memory import host_memory
from penstock.terminal import console, failed, table_of


def config(
    recipe: Annotated[pathlib.Path, typer.Argument(help="recipe file (YAML)")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value")] = None,
    check: Annotated[bool, typer.Option("--check", help="also call every foreign service once")] = False,
) -> None:
    """Check a recipe and print it resolved, with what it implies."""
    try:
        resolved = pinned(load(recipe, overrides or []))
    except RecipeError as error:
        raise failed(str(error)) from error
    if missing := check_packages(resolved) or asyncio.run(_lacking(resolved)):
        raise failed("\n  ".join([f"{recipe}:", *missing]))
    if check and (away := asyncio.run(unreachable(resolved))):
        raise failed("\n  ".join([f"{recipe}:", *away]))
    a, learner = resolved.algorithm, resolved.learner
    split = learner.parallel.tensor * learner.parallel.pipeline * learner.parallel.context
    console.print(dump(resolved), highlight=False, markup=False, end="")
    implied: dict[str, object] = {
        "samples per step": a.groups_per_step * a.group_size,
        "groups in flight at most": resolved.groups_budget,
        "samples in all": a.steps * a.groups_per_step * a.group_size,
        "data parallel ranks": learner.ranks // split,
    }
    errors = Console(stderr=True)
    try:
        chat = chat_of(resolved)
    except TemplateError as error:
        raise failed(f"{recipe}:\n  model.path: {error}") from error
    implied["a turn ends with"] = "unknown: no tokenizer can be read" if chat is None else ends(chat)
    errors.print(table_of(implied, "implies"))
    if drafts := Needs.of_drafts(resolved):
        where = f"beside the model in each of {resolved.generation.replicas} engines"
        errors.print(f"memory of the model that drafts: {_size(drafts)}, {where}", markup=False, highlight=False)
    needs = Needs.of(resolved)
    if needs is None:
        errors.print(f"memory: the shapes of {resolved.model.path} cannot be read", markup=False, highlight=False)
    else:
        errors.print(_memory(needs, learner.device_gib))
        if needs.routes:
            errors.print(_routes(resolved, needs.routes), markup=False, highlight=False, soft_wrap=True)
    errors.print(_host(Needs.of_host(resolved), host_memory()), markup=False, highlight=False, soft_wrap=True, end="")


def _routes(recipe: Recipe, row: int) -> str:
    """What recording a mixture's routes costs, before compression; a line."""
    sample = row * recipe.generation.max_context
    step = sample * recipe.algorithm.groups_per_step * recipe.algorithm.group_size
    holds = recipe.limits.log_bytes // sample
    return (
        f"routes: {row} bytes a token; with samples of {recipe.generation.max_context} tokens {_size(sample)} each, "
        f"{_size(step)} of a step on each learner rank's host, and limits.log_bytes has room for {holds:,} samples "
        "(compressed they are about two thirds of it)"
    )


async def _lacking(recipe: Recipe) -> list[str]:
    """What the environments of other programs do not have."""
    return [*await undraftable(recipe), *await unadapted(recipe)]


def _host(held: dict[str, int], has: int | None) -> str:
    """What the run's models need of this machine together, and whether that is more than there is; a line, or none."""
    if not held or has is None:
        return ""
    parts = " + ".join(f"{kind} {_size(size)}" for kind, size in held.items())
    line = f"on CPUs of one host: {parts} = {_size(sum(held.values()))} of this machine's {_size(has)}"
    if sum(held.values()) <= has:
        return f"{line}\n"
    keys = "; ".join(LESS_MEMORY[kind] for kind in held if kind in LESS_MEMORY)
    return f"{line}: more than it has, so the kernel would end one of them; lower {keys}\n"


def _memory(needs: Needs, device_gib: float | None) -> Table:
    """What a rank of each pipeline stage needs."""
    table = Table(
        "",
        *(f"stage {i}" for i in range(len(needs.stages))),
        title=f"memory of a learner rank, {needs.shapes.parameters / 1e6:,.1f} M parameters in all",
        caption=f"beside, on the host: {_size(needs.published)} over all ranks while a version is published, "
        f"{_size(max(s.state for s in needs.stages))} with each rank while a checkpoint is written, "
        f"{_size(needs.stored)} of versions on weight_sync's disk",
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
