"""`python -m services.environment --listen 127.0.0.1:0 --announce FILE`: flags to objects."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from penstock.process import flags, observed, security, serve_metrics
from penstock.rpc import AddressInUse, Security
from penstock.system import exits
from services.environment.server import Settings, running

logger = logging.getLogger("services.environment")


def _arguments() -> argparse.Namespace:
    parser = flags("environment", "Serves rewards and environments.")
    parser.add_argument("--workers", type=int, default=2, help="worker processes for rewards, and for environments")
    parser.add_argument("--memory-gib", type=float, default=4.0, help="most memory of a worker, imports apart; 0: any")
    parser.add_argument("--lease-seconds", type=float, default=120.0, help="life of an episode that is not stepped")
    return parser.parse_args()


async def _main(args: argparse.Namespace, credentials: Security) -> None:
    settings = Settings(
        listen=args.listen,
        name=args.name,
        workers=args.workers,
        memory=int(args.memory_gib * (1 << 30)),
        lease_seconds=args.lease_seconds,
        reflection=args.reflection,
        security=credentials,
    )
    async with running(settings) as server:
        if args.announce is not None:
            server.announce(args.announce)
        await server.wait()


def main() -> int:
    """Returns the exit status: 0 after SIGTERM, 2 for bad input."""
    args = _arguments()
    with observed(args, args.name):
        try:
            held = security(args)
            serve_metrics(args.metrics_port, held)
            asyncio.run(_main(args, held))
        except (AddressInUse, OSError, ValueError) as error:
            logger.error("cannot start: %s", error)
            return exits.BAD_INPUT
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
