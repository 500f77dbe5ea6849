"""What an update costs an engine that draws: its pause, against loading the same version into the same engine at rest.

A real engine of vLLM draws `--requests` long completions at once; in each round it is given the model's own weights as
a version, from a file in memory, while it draws and while nothing is drawn. Fetching is no part of either: an engine
fetches while it draws (`weight_sync`'s bench). Without a model one is made, of `--hidden` and `--layers`.
"""

import argparse
import asyncio
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import torch
from safetensors.torch import load_file
from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.tensors import make_manifest
from penstock.tiny_model import make_model
from penstock.weights.v1.weights_pb2 import Manifest
from services.generation.engine import Engine, EngineSettings
from tests.bench.report import Report

PROMPT, LONGEST = 32, 2048


def version_of(model: pathlib.Path, file: pathlib.Path) -> Manifest:
    """The model's weights as a version whose bytes are in a file."""
    tensors = dict[str, torch.Tensor]()
    for path in sorted(model.glob("*.safetensors")):
        tensors |= {name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}
    data = {name: t.contiguous().view(torch.uint8).numpy().tobytes() for name, t in tensors.items()}
    file.write_bytes(b"".join(data.values()))
    return make_manifest(1, 1, [(name, "bfloat16", list(t.shape), data[name]) for name, t in tensors.items()])


async def loaded(engine: Engine, manifest: Manifest, file: pathlib.Path) -> float:
    """Seconds that loading alone takes, in an engine at rest."""
    tensors = [(t.name, t.dtype, list(t.shape), t.offset, t.size) for t in manifest.tensors]
    update = {"path": str(file), "tensors": tensors, "scale": None}
    began = time.monotonic()
    await engine._llm.start_weight_update()
    await engine._llm.update_weights(WeightTransferUpdateRequest(update_info=update))
    await engine._llm.finish_weight_update("1.1")
    return time.monotonic() - began


async def measured(args: argparse.Namespace, model: pathlib.Path, file: pathlib.Path) -> dict[str, list[float]]:
    """Seconds of every round."""
    manifest, seconds = version_of(model, file), dict[str, list[float]](loading=[], pause=[])
    settings = EngineSettings(str(model), dtype="bfloat16", max_context=LONGEST, max_running=args.requests)
    engine, drawn = await Engine.start(settings, PolicyVersion(epoch=1)), 0
    words = int(json.loads((model / "config.json").read_text())["vocab_size"])

    async def draw(number: int) -> None:
        nonlocal drawn
        sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=LONGEST - PROMPT - 1)
        prompt = [(number * 7 + i) % words for i in range(PROMPT)]
        async for chunk in engine.generate(f"{time.monotonic_ns()}-{number}", prompt, sampling):
            drawn += len(chunk.tokens)

    async def drawing() -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(args.requests):
                tasks.create_task(draw(number))

    try:
        await loaded(engine, manifest, file)
        for _ in range(args.rounds):
            seconds["loading"].append(await loaded(engine, manifest, file))
            work, before = asyncio.create_task(drawing()), drawn
            while drawn < before + args.requests * 4:
                await asyncio.sleep(0.01)
            seconds["pause"].append(await engine.update(manifest, file))
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            while engine.running():
                await asyncio.sleep(0.01)
    finally:
        engine.stop()
    return seconds


async def main(args: argparse.Namespace) -> None:
    report = Report("pause", vars(args))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        folder = pathlib.Path(memory)
        if args.model is None:
            (folder / "model").mkdir()
            sizes: dict[str, Any] = {
                "hidden": args.hidden,
                "layers": args.layers,
                "intermediate": 3 * args.hidden,
                "context": LONGEST,
            }
            make_model(folder / "model", **sizes)
        seconds = await measured(args, args.model or folder / "model", folder / "version")
        size = os.stat(folder / "version").st_size
    for what, times in seconds.items():
        report.add(what=what, seconds=statistics.median(times), best=min(times), worst=max(times))
    ratio = min(seconds["pause"]) / min(seconds["loading"])
    report.note(f"pause / loading alone (<= 1.1), best of {args.rounds}: {ratio:.3f}")
    report.note(
        "vLLM's processes at rest look for work each 0.1 s, which is in most of loading's times: hence the best"
    )
    report.note(f"{size / 1e6:.0f} MB of bfloat16; the decoding step under way is in the pause, and not in loading")
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    asyncio.run(main(parser.parse_args()))
