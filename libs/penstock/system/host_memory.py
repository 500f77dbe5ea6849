"""How much memory this machine lets us have."""

import pathlib

MEMINFO = pathlib.Path("/proc/meminfo")
GROUP = pathlib.Path("/sys/fs/cgroup/memory.max")


def host_memory(meminfo: pathlib.Path = MEMINFO, group: pathlib.Path = GROUP) -> int | None:
    """Bytes: the machine's, or what the control group allows where that is less; None where neither can be read."""
    sizes = []
    try:
        line = next(each for each in meminfo.read_text().splitlines() if each.startswith("MemTotal:"))
        sizes.append(int(line.split()[1]) * 1024)
    except (OSError, StopIteration, ValueError, IndexError):
        pass  # not this kind of system
    try:
        sizes.append(int(group.read_text()))
    except (OSError, ValueError):
        pass  # no group, or "max"
    return min(sizes, default=None)
