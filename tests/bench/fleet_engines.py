"""Fake replicas for the bench `fleet`: fronts of generation over engines that draw at no cost, many in one process."""

import argparse
import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import uvloop

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.generation.v1 import generation_pb2_grpc
from penstock.system.parent_death import die_with_parent
from services.generation.engine import Chunk, EngineSettings, label
from services.generation.engine_host import EngineHost, State
from services.generation.server import Generation
from services.generation.together import sizes

TOKEN, VOCABULARY = 20, 64
NEWEST = 1 << 30
"""A step that no task waits for."""


class Engine:
    """What a host needs of an engine. Draws `tokens` tokens, the last of them one that ends an answer."""

    alive, routes = True, None

    def __init__(self, tokens: int, first: int) -> None:
        self.version = PolicyVersion(epoch=1, step=0)
        self._tokens, self._first, self._running = tokens, first, 0

    async def generate(
        self,
        request_id: str,
        prompt: Sequence[int],
        sampling: SamplingParams,
        steady: bool = False,
        routes_from: int | None = None,
    ) -> AsyncIterator[Chunk]:
        """Chunk by chunk, with a turn of the event loop between them."""
        self._running += 1
        left, least = min(self._tokens, sampling.max_tokens), sizes(self._first, steady)
        try:
            while left:
                count = min(left, next(least))
                left -= count
                tokens = [TOKEN] * count
                if left == 0:
                    tokens[-1] = sampling.stop_token_ids[0]
                await asyncio.sleep(0)
                yield Chunk(tokens, [-0.5] * count, [(0, label(self.version))], None if left else "stop", 0)
        finally:
            self._running -= 1

    def running(self) -> int:
        """Requests that have not finished."""
        return self._running


async def serve(args: argparse.Namespace) -> None:
    """Serves the replicas, and writes their addresses, until the process is ended."""
    settings = EngineSettings("fake", max_running=4096, max_context=1 << 20)
    async with contextlib.AsyncExitStack() as stack:
        addresses = []
        for _ in range(args.replicas):
            host = EngineHost(settings, "bench")
            engine: Any = Engine(args.tokens, settings.chunk_tokens)
            host._engine, host.state = engine, State.STATE_READY
            await host.gate.open(NEWEST)
            server = await stack.enter_async_context(rpc.Server("generation"))
            server.add(generation_pb2_grpc.add_GenerationServiceServicer_to_server, Generation(host, VOCABULARY))
            await server.start()
            addresses.append(server.address)
        args.announce.with_suffix(".part").write_text(json.dumps(addresses))
        args.announce.with_suffix(".part").replace(args.announce)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True, help="of an answer")
    parser.add_argument("--announce", type=pathlib.Path, required=True, help="file for the addresses")
    die_with_parent()
    uvloop.run(serve(parser.parse_args()))
