"""`python -m services.environment --listen 127.0.0.1:0 --announce FILE`: flags to objects."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from penstock.rpc import AddressInUse, Security
from penstock.telemetry import logs, metrics, tracing
from services.environment.server import Settings, running


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="services.environment", description="Serves rewards and environments.")
    parser.add_argument("--name", default="environment", help="this process's name in logs and diagnostics")
    parser.add_argument("--run", default=None, help="the run's name, for logs and traces")
    parser.add_argument("--listen", default="127.0.0.1:7300", help="host:port; port 0 takes a free one")
    parser.add_argument("--announce", type=Path, help="file that gets the bound address")
    parser.add_argument("--workers", type=int, default=2, help="worker processes for rewards, and for environments")
    parser.add_argument("--memory-gib", type=float, default=4.0, help="most memory of a worker, imports apart; 0: any")
    parser.add_argument("--lease-seconds", type=float, default=120.0, help="life of an episode that is not stepped")
    parser.add_argument("--metrics-port", type=int, help="serve Prometheus metrics on this port of 127.0.0.1")
    parser.add_argument("--trace-file", type=Path, help="spans as JSON lines, where no OTLP endpoint is set")
    parser.add_argument("--reflection", action="store_true", help="let tools list the methods")
    parser.add_argument("--token-file", type=Path, help="file with the bearer token that callers show")
    parser.add_argument("--log-level", default=os.environ.get("PENSTOCK_LOG_LEVEL", "INFO"))
    return parser.parse_args()


async def _main(flags: argparse.Namespace) -> None:
    token = flags.token_file.read_text().strip() if flags.token_file else None
    settings = Settings(
        listen=flags.listen,
        name=flags.name,
        workers=flags.workers,
        memory=int(flags.memory_gib * (1 << 30)),
        lease_seconds=flags.lease_seconds,
        reflection=flags.reflection,
        security=Security(token=token),
    )
    async with running(settings) as server:
        if flags.announce is not None:
            server.announce(flags.announce)
        await server.wait()


def main() -> int:
    """Returns the exit status: 0 after SIGTERM, 2 for bad input."""
    flags = _arguments()
    logs.configure(flags.name, run=flags.run, level=flags.log_level)
    traces = tracing.configure(flags.name, run=flags.run, path=flags.trace_file)
    if flags.metrics_port is not None:
        metrics.serve(flags.metrics_port)
    try:
        asyncio.run(_main(flags))
    except (AddressInUse, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    finally:
        if traces is not None:
            traces.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
