"""The engine's half of `routes`: draws samples with their routes, and what recording them costs. Prints one JSON line.

One start of an engine differs from the next by up to a quarter, which is more than recording can cost. So one engine
draws both ways: a round that records and one that does not, in random order, pair by pair. What is told is the median
of the pairs' ratios over all pairs of all starts, of the time and of the processors' time of all processes, and how far
off that median may be: half the width of its 95 % interval, by resampling the pairs.
"""

import argparse
import asyncio
import json
import pathlib
import time
from typing import Any

import numpy as np
import psutil

from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.trajectories.routes import unpacked
from services.generation.engine import Engine, EngineSettings


async def draw(engine: Engine, name: str, prompt: list[int], sampling: SamplingParams, rows: int | None) -> Any:
    """(tokens, log-probs, routes) of one completion. Its routes are left as messages: a service sends them on so, and
    who reads them is not the engine."""
    tokens, logprobs, routes = list[int](), list[float](), []
    async for chunk in engine.generate(name, prompt, sampling, routes_from=rows):
        tokens += chunk.tokens
        logprobs += chunk.logprobs
        routes += [] if chunk.routes is None else [chunk.routes]
    return tokens, logprobs, routes


def busy_seconds() -> float:
    """Processors' time of this process and those it started."""
    processes = [me := psutil.Process(), *me.children(recursive=True)]
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


async def measured(args: argparse.Namespace, seed: int) -> tuple[np.ndarray[Any, Any], list[Any], list[list[int]]]:
    """Seconds and processors' seconds [pairs, without and with, 2], and what was drawn at last with which prompts."""
    settings = EngineSettings(
        str(args.model), dtype=args.dtype, max_context=512, max_running=args.requests, routes=True
    )
    engine = await Engine.start(settings, PolicyVersion())
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=args.tokens)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, args.vocabulary, 64).tolist() for _ in range(args.requests)]
    found, order = np.zeros((args.rounds, 2, 2)), np.random.default_rng(seed)

    async def round_(name: str, records: bool) -> tuple[tuple[float, float], list[Any]]:
        rows = 0 if records else None
        began, busy = time.perf_counter(), busy_seconds()
        drawn = await asyncio.gather(*(draw(engine, f"{name}-{i}", p, sampling, rows) for i, p in enumerate(prompts)))
        return (time.perf_counter() - began, busy_seconds() - busy), drawn

    try:
        _, drawn = await round_("warm", True)
        recording = True
        for pair in range(args.rounds):
            for records in order.permutation([False, True]).tolist():
                if records != recording:
                    await engine._llm.collective_rpc("record_routes", timeout=60, args=(records,))
                    recording = records
                found[pair, int(records)], what = await round_(f"{pair}-{records}", records)
                drawn = what if records else drawn
    finally:
        engine.stop()
    return found, drawn, prompts


async def main(args: argparse.Namespace) -> None:
    starts = [await measured(args, seed) for seed in range(args.starts)]
    _, drawn, prompts = starts[-1]
    columns: dict[str, Any] = {
        f"routes{i}": np.concatenate([unpacked(r) for r in each]) for i, (_, _, each) in enumerate(drawn)
    }
    tokens, logprobs = (np.array([each[i] for each in drawn]) for i in (0, 1))
    np.savez(args.out, prompts=np.array(prompts), tokens=tokens, logprobs=logprobs, **columns)
    found = np.concatenate([pairs for pairs, _, _ in starts])
    ratios = found[:, 1] / found[:, 0]
    again = np.random.default_rng(0).integers(len(ratios), size=(2000, len(ratios)))
    low, high = np.quantile(np.median(ratios[again], axis=1), [0.025, 0.975], axis=0)
    (time_, busy), (time_off, busy_off) = np.median(ratios, axis=0).tolist(), ((high - low) / 2).tolist()
    tokens_a_second = args.requests * args.tokens / float(np.median(found[:, 1, 0]))
    said = {"time": time_, "time_off": time_off, "busy": busy, "busy_off": busy_off}
    print(json.dumps({"tokens_a_second": tokens_a_second, **said}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20, help="pairs of a start")
    parser.add_argument("--starts", type=int, default=2)
    asyncio.run(main(parser.parse_args()))
