"""How busy this host is: its cores since the last look, its memory, the disk of a folder. Shares, from /proc.

What cannot be read is left out: this is an addition to a step's numbers, not a part of the run.
"""

import pathlib
import shutil
from contextlib import suppress

from penstock.telemetry import steps

STAT, MEMINFO = pathlib.Path("/proc/stat"), pathlib.Path("/proc/meminfo")
_IDLE = slice(3, 5)  # of the first line of /proc/stat: idle, and waiting for a disk


def disk_used(folder: pathlib.Path) -> float | None:
    """Share of the disk of a folder that is in use; None where nobody says so."""
    with suppress(OSError):
        usage = shutil.disk_usage(folder)
        return usage.used / usage.total
    return None


class Machine:
    """Looked at whenever a step ends."""

    def __init__(self, folder: pathlib.Path, stat: pathlib.Path = STAT, meminfo: pathlib.Path = MEMINFO) -> None:
        self._folder, self._stat, self._meminfo = folder, stat, meminfo
        self._before = self._ticks()

    def look(self) -> dict[str, float]:
        """The numbers by their names of the register."""
        found = {}
        before, self._before = self._before, self._ticks()
        if before is not None and self._before is not None and self._before[1] > before[1]:
            passed = self._before[1] - before[1]
            found[steps.SYSTEM_CPU] = 1 - (self._before[0] - before[0]) / passed
        with suppress(OSError, ValueError, KeyError, ZeroDivisionError):
            lines = (line.split(":") for line in self._meminfo.read_text().splitlines())
            sizes = {name: int(rest.split()[0]) for name, rest in lines}
            found[steps.SYSTEM_MEMORY] = 1 - sizes["MemAvailable"] / sizes["MemTotal"]
        if (used := disk_used(self._folder)) is not None:
            found[steps.SYSTEM_DISK] = used
        return found

    def _ticks(self) -> tuple[int, int] | None:
        """Ticks of all cores that were idle, and all, since the host was started."""
        try:
            ticks = [int(word) for word in self._stat.read_text().splitlines()[0].split()[1:9]]
        except (OSError, ValueError, IndexError):
            return None
        return sum(ticks[_IDLE]), sum(ticks)
