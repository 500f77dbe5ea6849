"""How every service process begins and ends: the same flags, logs, traces, metrics and server for all of them."""

from penstock.process.main import Process, flags, run

__all__ = ["Process", "flags", "run"]
