"""penstock serve coordinator: admits work, evaluates, and tells how the run goes."""

import argparse
import asyncio
import pathlib
import sys

from penstock.chat import ChatTokenizer, keep
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.datasets import DatasetError
from penstock.process import Process, flags, run
from penstock.recipes import RecipeError, load
from services.coordinator.coordinator import Coordinator
from services.coordinator.reporting.sinks import close, sinks
from services.coordinator.server import CoordinatorServicer
from services.coordinator.state.peers import peers


async def serve(process: Process, args: argparse.Namespace) -> None:
    recipe, part = load(args.recipe), process.joined
    addresses = dict(peer.split("=", 1) for peer in args.peer)
    async with peers(addresses, process.security, part.watcher) as others:
        chat = await asyncio.to_thread(ChatTokenizer, recipe.model.path, recipe.data.thinking)
        await asyncio.to_thread(keep, chat, args.run_directory)
        written = sinks(args.run_directory, recipe)
        coordinator = Coordinator(part.bus, part.names, recipe, args.run_directory, others, written, chat)
        process.server.add(
            coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server, CoordinatorServicer(coordinator)
        )
        try:
            await process.serving(coordinator.run())
        finally:
            await asyncio.to_thread(close, written)


def main() -> int:
    description = "Admits work within the staleness budget, evaluates, and tells how the run goes."
    parser = flags("coordinator", description, nats=True)
    parser.add_argument("--recipe", type=pathlib.Path, required=True, help="the run's resolved recipe")
    parser.add_argument(
        "--run-directory", type=pathlib.Path, required=True, help="where metrics and summary are written"
    )
    parser.add_argument(
        "--peer", action="append", default=[], help="NAME=HOST:PORT of a service that takes no part in the run"
    )
    args = parser.parse_args()
    bad = [p for p in args.peer if "=" not in p]
    if bad:
        parser.error(f"--peer: {bad[0]!r} must have the form NAME=HOST:PORT")
    try:
        return run(args, serve, load(args.recipe).run)
    except (RecipeError, DatasetError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
