"""Whether the kernel killed a process for lack of memory: of a SIGKILL it says nothing else to the parent.

The kernel counts such kills, of the whole machine and of memory-limited control groups alike, in /proc/vmstat (since
Linux 4.13). A count that grew while a child lived that SIGKILL ended is taken for the reason.
"""

import pathlib
import signal

from penstock.system import exits

VMSTAT = pathlib.Path("/proc/vmstat")
OUT_OF_MEMORY = "was killed by the kernel for lack of memory"


def memory_kills(counters: pathlib.Path = VMSTAT) -> int:
    """Processes that the kernel has killed for lack of memory since it booted; 0 where it does not count them."""
    try:
        lines = counters.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def how_it_ended(code: int, kills_before: int, counters: pathlib.Path = VMSTAT) -> str:
    """The end of a child for people. code: its exit code, negative for a signal; kills_before: `memory_kills` when it
    was started."""
    if code == exits.OUT_OF_MEMORY or (code == -signal.SIGKILL and memory_kills(counters) > kills_before):
        return OUT_OF_MEMORY
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with {code}"
