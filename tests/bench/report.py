"""What a benchmark says: one table on the screen, one JSON file, and the machine it was made on.

    report = Report("log")
    report.add(size="4 KiB", ours=1.9, bare=1.1, ratio=1.7)
    report.finish()          # prints the table, writes runs/bench/log.json

Times of two systems are only compared when both were taken in the same run, in turn, so that whatever else the
machine does falls on both. `rounds` does that. Ratios are what a reader may carry elsewhere; the other columns are for
checking.
"""

import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

FOLDER = pathlib.Path("runs/bench")


class Report:
    """The rows of one benchmark. `settings` are whatever was asked for on the command line."""

    def __init__(self, name: str, settings: Mapping[str, Any] | None = None) -> None:
        self.name, self.settings = name, {k: str(v) for k, v in (settings or {}).items()}
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._load_before, self._began = os.getloadavg()[0], time.time()

    def add(self, **cells: Any) -> None:
        """One row; the columns are those of all rows, in the order they first appear."""
        self.rows.append(cells)

    def note(self, text: str) -> None:
        """A sentence below the table."""
        self.notes.append(text)

    def finish(self, folder: pathlib.Path = FOLDER) -> pathlib.Path:
        """Prints the table and writes the JSON file; gives its path."""
        machine = {
            "cores": os.cpu_count(),
            "processor": _processor(),
            "python": platform.python_version(),
            "load_before": round(self._load_before, 2),
            "load_after": round(os.getloadavg()[0], 2),
        }
        document = {
            "benchmark": self.name,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began)),
            "seconds": round(time.time() - self._began, 1),
            "machine": machine,
            "settings": self.settings,
            "rows": self.rows,
            "notes": self.notes,
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(document, indent=2) + "\n")
        print(_table(self.rows))
        for note in self.notes:
            print(note)
        print(
            f"{machine['cores']} cores, load {machine['load_before']} before and {machine['load_after']} after; {path}"
        )
        return path


def rounds(count: int, **systems: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of every call, the systems taking turns: a, b, a, b, …"""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(count):
        for name, call in systems.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over rounds of ours / theirs: a pair stands side by side in time, so its quotient is the fair number."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _processor() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_text(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]

    def joined(line: list[str]) -> str:
        return "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )

    return "\n".join([joined(columns), joined(["-" * width for width in widths]), *map(joined, cells)])


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
