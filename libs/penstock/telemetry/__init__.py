"""Logs, traces, metrics and named waits: how a Penstock process tells what it does.

Import the submodules directly (`penstock.telemetry.logs`, `.tracing`, `.metrics`); only the waits, which everything
uses and which need nothing installed, are re-exported here.
"""

from penstock.telemetry.waits import Wait, progress, snapshot, waiting

__all__ = ["Wait", "progress", "snapshot", "waiting"]
