"""How every service process begins and ends: the same flags, logs, traces, metrics and server for all of them."""

from penstock.process.accelerator import WrongAccelerator, check_accelerator
from penstock.process.joining import Part, PeerMoved, Unreachable, advertised, check_reachable, joined, nats_login
from penstock.process.service import Process, observed, run
from penstock.process.settings import flags, security, serve_metrics

__all__ = [
    "Part",
    "PeerMoved",
    "Process",
    "Unreachable",
    "WrongAccelerator",
    "advertised",
    "check_accelerator",
    "check_reachable",
    "flags",
    "joined",
    "nats_login",
    "observed",
    "run",
    "security",
    "serve_metrics",
]
