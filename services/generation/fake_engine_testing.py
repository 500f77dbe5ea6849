"""A fake engine: what EngineHost needs of services.generation.engine.Engine, with a valve before every token."""

import asyncio
import pathlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.weights.v1.weights_pb2 import Manifest
from services.generation.engine import Chunk, EngineDied, EngineSettings, Judgement, label


class FakeEngine:
    """Holds a version; draws max_tokens tokens, each labelled with the version held when it is drawn."""

    def __init__(self, version: PolicyVersion) -> None:
        self.version = version
        self.alive, self.routes = True, None
        self.stopped = False
        self.requests = 0
        self.valve = asyncio.Event()
        self.valve.set()
        self.update_error: Exception | None = None
        self.updates: list[tuple[int, bytes]] = []
        self.swapping = asyncio.Event()
        self.swap_may_end = asyncio.Event()
        self.swap_may_end.set()
        self.drawn_while_undefined = 0

    async def generate(
        self,
        request_id: str,
        prompt: Sequence[int],
        sampling: SamplingParams,
        steady: bool = False,
        routes_from: int | None = None,
    ) -> AsyncIterator[Chunk]:
        self.requests += 1
        try:
            for i in range(sampling.max_tokens):
                await self.valve.wait()
                await asyncio.sleep(0)
                if not self.alive:
                    raise EngineDied("the engine's process is gone")
                last = i + 1 == sampling.max_tokens
                yield Chunk([7], [-0.5], [(0, label(self.version))], "length" if last else None, 0)
        finally:
            self.requests -= 1

    async def score(self, request_id: str, tokens: Sequence[int], first: int, top: int) -> Judgement:
        if not self.alive:
            raise EngineDied("the engine's process is gone")
        named = [list(range(top)) for _ in tokens[first:]]
        return Judgement(
            [-float(token) for token in tokens[first:]], named, [[-float(n) for n in row] for row in named]
        )

    async def update(self, manifest: Manifest, path: pathlib.Path) -> float:
        self.swapping.set()
        await self.swap_may_end.wait()
        if self.update_error is not None:
            raise self.update_error
        self.updates.append((manifest.version.step, path.read_bytes()[: manifest.total_size]))
        self.version = manifest.version
        return 0.01

    def running(self) -> int:
        return self.requests

    def stop(self) -> None:
        self.stopped, self.alive = True, False
        self.valve.set()


@dataclass
class Factory:
    """Starts fake engines and remembers them."""

    engines: list[FakeEngine] = field(default_factory=list)
    next_update_error: Exception | None = None
    may_start: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_start.set()

    async def __call__(self, settings: EngineSettings, version: PolicyVersion) -> Any:  # a FakeEngine, for an Engine
        await self.may_start.wait()
        engine = FakeEngine(version)
        engine.update_error, self.next_update_error = self.next_update_error, None
        self.engines.append(engine)
        return engine
