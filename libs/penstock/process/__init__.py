"""How every service process begins and ends: the same flags, logs, traces, metrics and server for all of them."""

from penstock.process.service import Process, flags, observed, run, security

__all__ = ["Process", "flags", "observed", "run", "security"]
