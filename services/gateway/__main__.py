"""penstock serve gateway: the OpenAI-compatible door through which agents draw samples."""

import argparse
import asyncio
import pathlib
import sys
from collections.abc import Mapping

from penstock.chat import ChatTokenizer
from penstock.gateway.v1 import gateway_pb2_grpc
from penstock.process import Process, advertised, flags, run
from penstock.recipes import Longest, Recipe, RecipeError, load
from penstock.replicas.engines import Engines, engines
from penstock.replicas.pool import Members
from penstock.rpc import is_local
from penstock.trajectory.v1.trajectory_pb2 import TASK_KIND_EVAL, TASK_KIND_TRAIN, TaskKind
from services.gateway.app import app
from services.gateway.http import serving
from services.gateway.server import GatewayService
from services.gateway.session import Means
from services.gateway.sessions import Sessions


def means_of(recipe: Recipe, chat: ChatTokenizer, replicas: Engines) -> dict[str, Mapping[TaskKind, Means]]:
    """What sessions draw with: of each source that an agent plays, for samples that are trained or measured."""
    found: dict[str, Mapping[TaskKind, Means]] = {}
    for name, source in recipe.sources.items():
        environment = source.environment
        if environment is None or not environment.agent:
            continue
        trained, measured = (
            Means(
                recipe.model.path,
                chat,
                replicas,
                environment,
                Longest.of(source, trained=each),
                recipe.rollout.max_branches,
                recipe.gateway.agent_sampling == "override",
                each and bool(recipe.learner.routing_replay),
            )
            for each in (recipe.mode != "evaluate", False)
        )
        found[name] = {TASK_KIND_TRAIN: trained, TASK_KIND_EVAL: measured}
    return found


async def serve(process: Process, args: argparse.Namespace) -> None:
    recipe, part = load(args.recipe, rows=False), process.joined
    chat = await asyncio.to_thread(ChatTokenizer, recipe.model.path, recipe.data.thinking, recipe.data.control_tokens)
    where = args.generation or Members(part.watcher, "generation", "", part.member.zone)
    rollout = recipe.rollout
    async with engines(where, process.security, rollout.attempts, rollout.generation_timeout_seconds) as replicas:
        sessions = Sessions(means_of(recipe, chat, replicas))
        async with serving(app(sessions), args.http, process.security) as (scheme, bound):
            url = f"{scheme}://{args.advertise_http or advertised(bound, args.nats)}"
            process.server.add(gateway_pb2_grpc.add_GatewayServiceServicer_to_server, GatewayService(sessions, url))
            await process.serving()


def main() -> int:
    parser = flags("gateway", "Serves agents an OpenAI-compatible API, and keeps what they draw.", nats=True)
    parser.add_argument("--recipe", type=pathlib.Path, required=True, help="the run's resolved recipe")
    parser.add_argument("--http", default="127.0.0.1:0", help="HOST:PORT of the HTTP side; port 0 takes a free one")
    parser.add_argument("--advertise-http", help="HOST:PORT that agents are told, where it is not --http")
    parser.add_argument("--generation", action="append", default=[], help="HOST:PORT of a replica; repeat for more")
    args = parser.parse_args()
    try:
        recipe = load(args.recipe, rows=False)
    except RecipeError as error:
        parser.error(str(error))
    if not is_local(args.http) and not args.insecure and args.tls_certificate is None:
        parser.error(f"--http {args.http}: keys would cross the network in plain text; give TLS files, or --insecure")
    return run(args, serve, recipe.run)


if __name__ == "__main__":
    sys.exit(main())
