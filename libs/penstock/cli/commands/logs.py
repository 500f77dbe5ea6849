"""`penstock logs`: what the services of a run on this host wrote, as one stream in the order of time."""

import heapq
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from penstock.cli.words import DEFAULT_RUNS, RunName, Runs, unknown_run
from penstock.terminal import console, failed, plain

LOOK_SECONDS = 0.5
LEVELS = ("debug", "info", "warning", "error", "critical")
CONSTANT = ("logger", "service", "run")
"""Fields of a line that say nothing which the reader does not know."""
Line = tuple[str, str, str]
"""When, as text that sorts; which service; what it says."""


def logs(
    run: RunName,
    runs: Runs = DEFAULT_RUNS,
    service: Annotated[
        list[str] | None, typer.Option(help="of these alone: a name (rollout-0) or a kind (rollout); repeat for more")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="go on with what is written from now on")] = False,
    level: Annotated[str, typer.Option(help=f"the least: {', '.join(LEVELS)}")] = "info",
) -> None:
    """Show the logs of a run's services on this host, merged by time."""
    folder = runs / run / "logs"
    if not folder.is_dir():
        raise failed(unknown_run(run, runs))
    if level not in LEVELS:
        raise failed(f"--level: {level!r} is not one of {', '.join(LEVELS)}")
    least = LEVELS.index(level)
    reading = {path: Reading(path, least) for path in _chosen(folder, service)}
    if not reading and not follow:
        there = ", ".join(sorted(path.stem for path in folder.glob("*.log"))) or "none"
        raise failed(f"--service: {', '.join(service or ())} wrote nothing; logs there: {there}")
    while True:
        for when, name, text in heapq.merge(*(each.new() for each in reading.values())):
            console.print(plain(f"{when}  {name:<14} {text}"), soft_wrap=True)
        if not follow:
            return
        time.sleep(LOOK_SECONDS)  # a file announces nothing
        for path in _chosen(folder, service):
            reading.setdefault(path, Reading(path, least))


def _chosen(folder: pathlib.Path, services: list[str] | None) -> list[pathlib.Path]:
    def wanted(name: str) -> bool:
        return not services or name in services or name.partition("-")[0] in services

    return sorted(path for path in folder.glob("*.log") if wanted(path.stem))


class Reading:
    """One service's file, up to its last whole line; a line without a time of its own has that of the one above."""

    def __init__(self, path: pathlib.Path, least: int) -> None:
        self._path, self._least = path, least
        self._at, self._when = 0, ""

    def new(self) -> Iterator[Line]:
        """The lines since the last call, in order of time."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            read = file.read()
        whole = read[: read.rfind(b"\n") + 1]
        self._at += len(whole)
        for raw in whole.decode(errors="replace").splitlines():
            when, level, text = self._said(raw)
            self._when = max(self._when, when)
            if level >= self._least:
                yield self._when, self._path.stem, text

    def _said(self, raw: str) -> tuple[str, int, str]:
        """When, how grave, and what a line says; one that is no line of a service's own log is taken as it is."""
        try:
            said = json.loads(raw)
            when, level, message = said.pop("at"), said.pop("level"), said.pop("message")
            number = LEVELS.index(level)
        except (ValueError, KeyError, AttributeError, TypeError):
            return self._when, LEVELS.index("info"), raw
        error = said.pop("error", None)
        more = [f"{key}={value}" for key, value in said.items() if key not in CONSTANT and value not in (None, "")]
        words = [*([] if level == "info" else [f"{level}:"]), str(message), *more]
        return str(when), number, " ".join(words) + (f"\n{error}" if error else "")
