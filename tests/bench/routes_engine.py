"""The engine's half of `routes`: draws samples with their routes, and what recording them costs. Prints one JSON line.

Engines that record and engines that do not are started in turn: two at once would share the cores. One start differs
from the next by more than recording can cost, and a round from the next too, so that medians over all rounds of all
starts are told, of the time and of the processors' time of all processes.
"""

import argparse
import asyncio
import json
import pathlib
import statistics
import time
from typing import Any

import numpy as np
import psutil

from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.trajectories.routes import unpacked
from services.generation.engine import Engine, EngineSettings


async def draw(engine: Engine, name: str, prompt: list[int], sampling: SamplingParams, rows: int | None) -> Any:
    """(tokens, log-probs, routes) of one completion."""
    tokens, logprobs, routes = list[int](), list[float](), []
    async for chunk in engine.generate(name, prompt, sampling, routes_from=rows):
        tokens += chunk.tokens
        logprobs += chunk.logprobs
        routes += [] if chunk.routes is None else [unpacked(chunk.routes)]
    return tokens, logprobs, np.concatenate(routes) if routes else None


def busy_seconds() -> float:
    """Processors' time of this process and those it started."""
    processes = [me := psutil.Process(), *me.children(recursive=True)]
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


async def measured(
    args: argparse.Namespace, records: bool
) -> tuple[list[tuple[float, float]], list[Any], list[list[int]]]:
    """Seconds and processors' seconds of each round, and what was drawn with which prompts."""
    settings = EngineSettings(
        str(args.model), dtype=args.dtype, max_context=512, max_running=args.requests, routes=records
    )
    engine = await Engine.start(settings, PolicyVersion())
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=args.tokens)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, args.vocabulary, 64).tolist() for _ in range(args.requests)]
    rows = 0 if records else None
    try:
        await asyncio.gather(*(draw(engine, f"w{i}", p, sampling, rows) for i, p in enumerate(prompts)))
        found = []
        for round_ in range(args.rounds):
            began, busy = time.perf_counter(), busy_seconds()
            drawn = await asyncio.gather(
                *(draw(engine, f"{round_}-{i}", p, sampling, rows) for i, p in enumerate(prompts))
            )
            found.append((time.perf_counter() - began, busy_seconds() - busy))
    finally:
        engine.stop()
    return found, drawn, prompts


async def main(args: argparse.Namespace) -> None:
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for records in (True, False) * args.starts:
        rounds, drawn, prompts = await measured(args, records)
        found[records] += rounds
        if records:
            columns = {f"routes{i}": rows for i, (_, _, rows) in enumerate(drawn)}
            tokens, logprobs = (np.array([each[i] for each in drawn]) for i in (0, 1))
            np.savez(args.out, prompts=np.array(prompts), tokens=tokens, logprobs=logprobs, **columns)
    (with_, busy_with), (without, busy_without) = (
        [statistics.median(column) for column in zip(*found[records], strict=True)] for records in (True, False)
    )
    tokens_a_second = args.requests * args.tokens / with_
    print(json.dumps({"tokens_a_second": tokens_a_second, "time": with_ / without, "busy": busy_with / busy_without}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--starts", type=int, default=2)
    asyncio.run(main(parser.parse_args()))
