"""`penstock ls`: the runs of a folder, from their files."""

import pathlib
from typing import Any

from rich.table import Table

from penstock.cli.run_directory import RunRefused, locked
from penstock.cli.words import DEFAULT_RUNS, Runs
from penstock.histories.history import summary_of
from penstock.terminal import console, plain


def ls(runs: Runs = DEFAULT_RUNS) -> None:
    """List the runs of a folder: state, steps, reward at first and at last, and why a run ended."""
    table = Table("run", "state", "steps", "reward", "why")
    for path in sorted(runs.glob("*/recipe.yaml"), key=lambda p: p.stat().st_mtime):
        told = summary_of(path.parent)
        reward = " → ".join(f"{told[key]:.3f}" for key in ("reward_first", "reward_last") if told.get(key) is not None)
        steps, why = str(told.get("steps", "")), str(told.get("reason", ""))
        table.add_row(plain(path.parent.name), _state(path.parent, told), steps, reward, plain(why))
    console.print(table)


def _state(folder: pathlib.Path, told: dict[str, Any]) -> str:
    """How a run stands: what its files say of one that is over, and whether somebody holds one that is not."""
    if told.get("status") in ("done", "stopped", "failed"):
        return str(told["status"])
    try:
        with locked(folder):
            return "interrupted"
    except RunRefused:
        return "under way"
    except OSError:
        return "another user's"
