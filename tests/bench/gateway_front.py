"""The gateway's half of `gateway_vllm`: a gateway over one engine, with sessions that are open already.

A process of its own, so that its CPU time is the gateway's alone.
"""

import argparse
import asyncio
import pathlib

from penstock import rpc
from penstock.chat import ChatTokenizer
from penstock.recipes import Longest
from penstock.recipes.sections import Environment
from penstock.replicas.engines import engines
from penstock.system.parent_death import die_with_parent
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.gateway.app import app
from services.gateway.http import serving
from services.gateway.session import Means
from services.gateway.sessions import Sessions
from tests.bench.gateway import SECONDS, key_of, task_of


async def main(args: argparse.Namespace) -> None:
    """Serves, and writes its URL, until the process is ended."""
    chat, bound = ChatTokenizer(args.model), Longest(args.context, "--context", cut=False)
    async with engines([args.engine], rpc.Security(), 2, SECONDS) as replicas:
        environment = Environment(name="agent", agent=True, max_turns=args.turns)
        means = Means("policy", chat, replicas, environment, bound, 16, False)
        sessions = Sessions({"agent": {pb.TASK_KIND_TRAIN: means}})
        for round_ in range(args.rounds):
            for number in range(args.sessions):
                task = task_of(round_ * args.sessions + number, args.tokens)
                sessions.open(key_of(round_, number), task, 0, SECONDS)
        async with serving(app(sessions), "127.0.0.1:0", rpc.Security()) as (scheme, at):
            args.announce.with_suffix(".part").write_text(f"{scheme}://{at}")
            args.announce.with_suffix(".part").replace(args.announce)
            await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", required=True, help="HOST:PORT of generation")
    parser.add_argument("--model", required=True)
    for name in ("context", "sessions", "turns", "tokens", "rounds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--announce", type=pathlib.Path, required=True, help="file for the URL")
    die_with_parent()
    asyncio.run(main(parser.parse_args()))
