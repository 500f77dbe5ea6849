"""`python -m services.environment_adapters --serve '{"name": "reasoning_gym:chain_sum"}'`: flags to objects.

Others know it as an environment service, whose credentials it shows; in the run it plays the part `adapters`.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import sys

from penstock.packages import Overlay
from penstock.packages.installing import InstallFailed, install
from penstock.process import Process, flags, run
from penstock.system import exits
from services.environment_adapters.adapting import Served, problem
from services.environment_adapters.server import Settings, hosting

logger = logging.getLogger("services.environment_adapters")


async def serve(process: Process, args: argparse.Namespace) -> None:
    served = [Served.parsed(each) for each in args.serve]
    memory = int(args.memory_gib * (1 << 30))
    settings = Settings(served, args.workers, memory, args.lease_seconds, process.security)
    async with hosting(process.server, settings):
        await process.serving()


def _checked(served: list[Served]) -> int:
    """Says what cannot be had, a line each."""
    found = [f"{each.name}: {why}" for each in served if (why := problem(each)) is not None]
    for line in found:
        print(line)  # noqa: T201 - what `penstock config` reads
    return exits.BAD_INPUT if found else 0


def _installed(folder: pathlib.Path, packages: list[str]) -> int:
    """Adds packages to a folder, as `penstock env add adapters` asks: what is here already is this program's to say."""
    try:
        install(Overlay(folder), packages)
    except InstallFailed as error:
        print(error)  # noqa: T201 - what `penstock env` reads
        return exits.FAILED
    return 0


def main() -> int:
    """Returns the exit status: 0 after SIGTERM, 2 for bad input."""
    parser = flags("environment", "Serves the environments of other libraries.")
    parser.set_defaults(part="adapters", name="adapters")
    parser.add_argument("--serve", action="append", default=[], help='{"name": "LIBRARY:ID", "settings": {}}; repeat')
    parser.add_argument("--workers", type=int, default=2, help="worker processes of each kind")
    parser.add_argument("--memory-gib", type=float, default=4.0, help="most memory of a worker, imports apart; 0: any")
    parser.add_argument("--lease-seconds", type=float, default=120.0, help="life of an episode that is not stepped")
    parser.add_argument("--check", action="store_true", help="say what of --serve cannot be had, and end")
    parser.add_argument("--install", nargs="+", metavar="PACKAGE", help="add packages to the folder --to, and end")
    parser.add_argument("--to", type=pathlib.Path, default=pathlib.Path("packages"), help="the folder of --install")
    args = parser.parse_args()
    try:
        if args.install:
            return _installed(args.to, args.install)
        served = [Served.parsed(each) for each in args.serve]
        return _checked(served) if args.check else run(args, serve)
    except ValueError as error:
        logger.error("cannot start: %s", error)
        return exits.BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
