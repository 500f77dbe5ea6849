"""How every service process begins and ends: the same flags, logs, traces, metrics and server for all of them."""

from penstock.process.service import Process, flags, nats_flags, nats_login, observed, run, security, serve_metrics

__all__ = ["Process", "flags", "nats_flags", "nats_login", "observed", "run", "security", "serve_metrics"]
