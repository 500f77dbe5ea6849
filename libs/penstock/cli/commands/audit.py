"""`penstock verify` and `penstock quarantine`: a run's streams against what it promised, under way or over."""

import asyncio
import logging
import pathlib
from typing import Annotated

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from penstock.audit import Audit, Verdict, read_run
from penstock.bus import BusError, RunNames
from penstock.cli.run_directory import RunRefused
from penstock.cli.streams import streams_of
from penstock.cli.words import DEFAULT_RUNS, RunName, Runs, unknown_run
from penstock.rules.quarantine import Quarantined
from penstock.system import exits
from penstock.terminal import console, failed


def verify(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """Check a run's promises against its streams alone: nothing lost, nothing trained twice, nothing from nowhere.

    Exit code 1 if one is broken; each is said in a sentence.
    """
    audit, verdict = _audited(run, runs)
    ledger, counts = audit.ledger, audit.ledger.samples
    console.print(
        f"{counts.admitted} samples admitted = {counts.trained} trained + {counts.filtered} filtered + "
        f"{counts.expired} expired + {counts.failed} failed + {counts.in_flight} in flight; "
        f"{ledger.step} batches, {len(ledger.reports)} reports",
        highlight=False,
    )
    if verdict.unseen:
        console.print(f"{verdict.unseen} trained samples are not in the log any more: it was trimmed", highlight=False)
    set_aside = len(_set_aside(audit))
    if set_aside:
        console.print(f"{set_aside} entries are quarantined: penstock quarantine {run}", highlight=False)
    for finding in verdict.findings:
        console.print(finding, style="red", markup=False, highlight=False)
    if verdict.findings:
        raise failed(f"{len(verdict.findings)} promises are broken", exits.FAILED)
    console.print("every promise is kept")


def quarantine(
    run: RunName, runs: Runs = DEFAULT_RUNS, count: Annotated[int, typer.Option(min=1, help="entries shown")] = 100
) -> None:
    """List the entries of a run's streams that were set aside, why, and how the group ended that each was about."""
    audit, _ = _audited(run, runs)
    listed = _set_aside(audit)
    table = Table("stream", "entry", "subject", "its group", "why")
    for entry in listed[-count:]:
        table.add_row(
            entry.stream, str(entry.sequence), escape(entry.subject), _fate(audit, entry), escape(entry.reason)
        )
    if listed:
        console.print(table)
    console.print(f"{len(listed)} entries are quarantined", highlight=False)


def _set_aside(audit: Audit) -> list[Quarantined]:
    return [*audit.ledger.quarantine.listed, *audit.others.listed]


def _fate(audit: Audit, entry: Quarantined) -> str:
    """How the group ended that an entry's subject names."""
    named = (audit.ledger.groups.get(part) for part in entry.subject.split("."))
    return next((group.fate.value for group in named if group is not None), "-")


def _audited(run: str, runs: pathlib.Path) -> tuple[Audit, Verdict]:
    folder = runs / run
    if not (folder / "recipe.yaml").is_file():
        raise failed(unknown_run(run, runs))
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    logging.getLogger("penstock.rules").setLevel(logging.ERROR)  # the table says it

    async def read() -> tuple[Audit, Verdict]:
        async with streams_of(folder) as bus:
            bound = int(recipe["staleness"]["max_versions"])
            return await read_run(bus, RunNames(str(recipe["run"])), bound, copied=recipe["mode"] == "replay")

    try:
        return asyncio.run(read())
    except RunRefused as error:
        raise failed(str(error)) from error
    except (BusError, OSError) as error:
        raise failed(f"the streams of {run!r} cannot be read: {error}", exits.FAILED) from error
