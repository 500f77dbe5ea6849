"""How every service process begins and ends: the same flags, logs, traces, metrics and server for all of them."""

from penstock.process.disk import DiskFull, writing
from penstock.process.main import Process, flags, run

__all__ = ["DiskFull", "Process", "flags", "run", "writing"]
