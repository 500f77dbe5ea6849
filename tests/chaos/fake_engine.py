"""A generation service whose engine is a fake, for chaos runs: everything else of it is real (versions, gate, gRPC).

The fake draws ordinary tokens one by one and ends a completion with probability END at each, so the length of a
completion has a known distribution whatever interrupts it: one that goes on elsewhere goes on as if nothing had been.

PENSTOCK_FAKE_FAULTS plants what trials of versions must find: its first word in the learner's first version that any
engine takes, which is the one that is tried first, whatever its number; and so on. Which were taken is written into the
folder PENSTOCK_FAKE_TAKEN.

    scores   the log-probs of given tokens are others than before
    long     no completion ends before its limit, for which the reward falls
    dies     the process of the engine that first holds it is killed, once
"""

import asyncio
import os
import pathlib
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.weights.v1.weights_pb2 import Manifest
from services.generation.__main__ import main
from services.generation.engine import Chunk, EngineSettings, Judgement, label

END = 0.1
TOKEN = 7
FAULTS = os.environ.get("PENSTOCK_FAKE_FAULTS", "").split()
SECONDS_A_TOKEN = float(os.environ.get("PENSTOCK_FAKE_SECONDS_A_TOKEN", "0.004"))


class FakeEngine:
    """What EngineHost needs of an Engine."""

    alive = True

    def __init__(self, version: PolicyVersion, running: int) -> None:
        self.version, self.routes = version, None
        self._fault = ""  # that of the version
        self._running, self._slots = 0, asyncio.Semaphore(running)

    @classmethod
    async def start(cls, settings: EngineSettings, version: PolicyVersion) -> Any:  # a fake, for an Engine
        return cls(version, settings.max_running)

    async def generate(
        self,
        request_id: str,
        prompt: Sequence[int],
        sampling: SamplingParams,
        steady: bool = False,
        routes_from: int | None = None,
    ) -> AsyncIterator[Chunk]:
        """Draws TOKEN until chance or the limit ends it."""
        self._running += 1
        try:
            async with self._slots:
                async for chunk in self._drawn(sampling):
                    yield chunk
        finally:
            self._running -= 1

    async def _drawn(self, sampling: SamplingParams) -> AsyncIterator[Chunk]:
        for left in reversed(range(sampling.max_tokens)):
            await asyncio.sleep(SECONDS_A_TOKEN)
            ends = random.random() < END and self._fault != "long"
            token = sampling.stop_token_ids[0] if ends else TOKEN
            finish = "stop" if ends else "length" if left == 0 else None
            yield Chunk([token], [-0.5], [(0, label(self.version))], finish, 0)
            if ends:
                return

    async def score(self, request_id: str, tokens: Sequence[int], first: int, top: int) -> Judgement:
        """Finds every token alike."""
        count, said = len(tokens) - first, -30.0 if self._fault == "scores" else -0.5
        return Judgement([said] * count, [[TOKEN] * top] * count, [[-0.5] * top] * count)

    async def update(self, manifest: Manifest, path: pathlib.Path) -> float:
        """Takes a version's name; its bytes were checked on the way here."""
        self.version = manifest.version
        self._fault = fault_of(self.version.step)
        if self._fault == "dies":
            died = pathlib.Path(os.environ["PENSTOCK_FAKE_TAKEN"]) / "died"
            if not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    def running(self) -> int:
        return self._running

    def stop(self) -> None:
        """Has nothing to end."""


def fault_of(step: int) -> str:
    """What is planted in a version that an engine takes; nothing in most."""
    for number, fault in enumerate(FAULTS if step else ()):
        taken = pathlib.Path(os.environ["PENSTOCK_FAKE_TAKEN"]) / str(number)
        with suppress(FileExistsError), taken.open("x") as new:
            new.write(str(step))
        if taken.read_text() == str(step):
            return fault
    return ""


if __name__ == "__main__":
    sys.exit(main(FakeEngine.start))
