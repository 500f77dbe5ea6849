"""penstock serve generation: one vLLM replica."""

import argparse
import functools
import json
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

from penstock import rpc
from penstock.access import PARTS
from penstock.fetching import Bulk, Relays
from penstock.generation.v1 import generation_pb2_grpc
from penstock.process import Process, WrongAccelerator, check_accelerator, flags, run
from penstock.system import exits
from penstock.tensors import has_weights
from services.generation.drafting.drafting import missing
from services.generation.engine import Engine, EngineSettings
from services.generation.engine_host import EngineHost, StartEngine
from services.generation.server import Generation, vocabulary_of


def settings_of(args: argparse.Namespace) -> EngineSettings:
    """The engine that the flags ask for."""
    return EngineSettings(
        model=args.model,
        dtype=args.dtype,
        max_running=args.max_running,
        max_context=args.max_context,
        memory_gib=args.memory_gib,
        gpu_memory_fraction=args.gpu_memory_fraction,
        tensor_parallel=args.tensor_parallel,
        chunk_tokens=args.chunk_tokens,
        compile=args.compile,
        threads=args.threads,
        keep_kv_on_update=args.kv_on_update == "keep",
        speculative=args.speculative,
        weights=has_weights(args.model),
        routes=args.routes,
    )


async def serve(process: Process, args: argparse.Namespace, start: StartEngine) -> None:
    settings = settings_of(args)
    host = EngineHost(settings, receiver=process.name, start=start)
    servicer = Generation(host, vocabulary_of(args.model))
    process.server.add(generation_pb2_grpc.add_GenerationServiceServicer_to_server, servicer)
    if process.part is not None and args.part == "generation":
        host.serves = process.part.holds
    weight_sync, beside = args.weight_sync, list[Coroutine[Any, Any, None]]()
    if process.part is not None:
        process.part.member.serves, process.part.member.capacity = args.serves, args.max_running
        process.part.member.awaits_weights = not settings.weights
        process.part.when_written_off(servicer.refuse)
        if weight_sync is None and args.part == "generation":
            weight_sync = await process.part.address_of("weight_sync")
            beside.append(process.part.until_moved("weight_sync", weight_sync))

    async def ready() -> None:
        await host.ready()
        if process.part is not None:
            process.part.member.awaits_weights = False

    if weight_sync is None:
        await process.serving(host.run(None), ready=ready)
        return
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(
            rpc.channel(weight_sync, security=process.security, stream_seconds=86400)
        )
        relays = None
        if process.part is not None and args.weight_sync is None:
            relays = Relays(process.part.watcher.view, process.part.member, process.security)
            await stack.enter_async_context(relays)
        bulk = Bulk.beside(weight_sync, process.security)
        await process.serving(host.run(channel, bulk, relays), *beside, ready=ready)


def main(start: StartEngine = Engine.start) -> int:
    """The program. start: what starts the engine; chaos tests give a fake."""
    parser = flags("generation", "Serves the policy with vLLM.")
    parser.add_argument(
        "--model",
        required=True,
        help="Hugging Face model directory (version 0); without its weights, a run's are waited for",
    )
    parser.add_argument("--weight-sync", help="HOST:PORT of weight_sync, where it is not found in the run")
    parser.add_argument(
        "--part",
        default="generation",
        choices=PARTS["generation"],
        help="its place in the run; a teacher never changes",
    )
    parser.add_argument("--serves", default="", help="the reward that a judge gives")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--max-running", type=int, default=256, help="sequences in one batch")
    parser.add_argument("--max-context", type=int, default=2048, help="tokens of prompt and completion together")
    parser.add_argument("--memory-gib", type=float, default=1.0, help="KV cache on CPU")
    parser.add_argument("--gpu-memory-fraction", type=float, default=0.9)
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--chunk-tokens", type=int, default=16, help="tokens of a completion's first chunk")
    parser.add_argument("--compile", action="store_true", help="compile the model (for GPUs)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engine")
    parser.add_argument("--kv-on-update", choices=["keep", "recompute"], default="recompute")
    parser.add_argument("--speculative", type=json.loads, help="vLLM's speculative_config, as JSON")
    parser.add_argument("--routes", action="store_true", help="record where a mixture of experts sends tokens")
    parser.add_argument("--check", action="store_true", help="say whether this could be served here, and end")
    args = parser.parse_args()
    try:
        vocabulary_of(args.model)
    except ValueError as error:
        parser.error(f"--model: {error}")
    if not has_weights(args.model) and args.weight_sync is None and (args.nats is None or args.part != "generation"):
        parser.error(f"--model: {args.model} has no weights, and there is no run whose learner publishes any")
    if lacks := missing((args.speculative or {}).get("method", "")):
        parser.error(f"--speculative: {lacks}")
    if args.check:
        return 0
    if start == Engine.start:
        try:
            check_accelerator()
        except WrongAccelerator as wrong:
            parser.exit(exits.BAD_INPUT, f"cannot start: {wrong}\n")
        Engine.prepare(settings_of(args))
    return run(args, functools.partial(serve, start=start))


if __name__ == "__main__":
    sys.exit(main())
