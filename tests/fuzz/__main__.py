"""The same without a bound: `bazel run //tests/fuzz -- --minutes 60 --seed 7` until something does not withstand.

With `--gateway` it is the gateway that is attacked, by HTTP.
"""

import argparse
import asyncio
import logging
import pathlib
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

from tests.fuzz.gateway import attack, gateway
from tests.fuzz.harness import Amount, fuzz
from tests.fuzz.system import system

logger = logging.getLogger("fuzz")


async def _system(folder: pathlib.Path, seed: int) -> list[str]:
    async with system(folder) as running:
        return await fuzz(running, seed, Amount(calls=10_000, entries=3_000))


async def _gateway(folder: pathlib.Path, seed: int) -> list[str]:
    async with gateway(folder) as at:
        return await attack(at, seed, sessions=200, calls=60)


async def rounds(attacked: Callable[[pathlib.Path, int], Awaitable[list[str]]], seed: int, minutes: float) -> int:
    """Runs of new systems with one seed after the other; the exit code."""
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            found = await attacked(pathlib.Path(folder), seed)
        for each in found:
            logger.error("seed %d: %s", seed, each)
        if found:
            return 1
        logger.info("seed %d withstood", seed)
        seed += 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="no new seed is begun after so long")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--gateway", action="store_true", help="attack the gateway by HTTP, not the others by gRPC")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("penstock").setLevel(logging.CRITICAL)
    return asyncio.run(rounds(_gateway if args.gateway else _system, args.seed, args.minutes))


if __name__ == "__main__":
    sys.exit(main())
