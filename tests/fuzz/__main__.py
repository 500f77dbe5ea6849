"""The same without a bound: `bazel run //tests/fuzz -- --minutes 60 --seed 7` until something does not withstand."""

import argparse
import asyncio
import logging
import pathlib
import sys
import tempfile
import time

from tests.fuzz.harness import Amount, fuzz
from tests.fuzz.system import system

logger = logging.getLogger("fuzz")


async def rounds(seed: int, minutes: float) -> int:
    """Runs of new systems with one seed after the other; the exit code."""
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            async with system(pathlib.Path(folder)) as running:
                found = await fuzz(running, seed, Amount(calls=10_000, entries=3_000))
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
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("penstock").setLevel(logging.CRITICAL)
    return asyncio.run(rounds(args.seed, args.minutes))


if __name__ == "__main__":
    sys.exit(main())
