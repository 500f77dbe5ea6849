"""`python -m services.environment --listen 127.0.0.1:0 --announce FILE`: flags to objects."""

from __future__ import annotations

import argparse
import logging
import sys

from penstock.process import Process, flags, run
from penstock.system import exits
from services.environment.server import Settings, hosting

logger = logging.getLogger("services.environment")


async def serve(process: Process, args: argparse.Namespace) -> None:
    settings = Settings(
        workers=args.workers,
        memory=int(args.memory_gib * (1 << 30)),
        lease_seconds=args.lease_seconds,
        security=process.security,
    )
    async with hosting(process.server, settings):
        await process.serving()


def main() -> int:
    """Returns the exit status: 0 after SIGTERM, 2 for bad input."""
    parser = flags("environment", "Serves rewards, environments and agents.")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of each kind")
    parser.add_argument("--memory-gib", type=float, default=4.0, help="most memory of a worker, imports apart; 0: any")
    parser.add_argument("--lease-seconds", type=float, default=120.0, help="life of an episode that is not stepped")
    try:
        return run(parser.parse_args(), serve)
    except ValueError as error:
        logger.error("cannot start: %s", error)
        return exits.BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
