"""penstock serve rollout: drives episodes."""

import argparse
import asyncio
import pathlib
import sys
from contextlib import AsyncExitStack

from penstock import rpc
from penstock.bus import RunNames, TaskConsumer, connect
from penstock.chat import ChatTokenizer
from penstock.datasets import tokenise
from penstock.environment.v1 import environment_pb2_grpc
from penstock.process import Process, flags, run
from penstock.recipes import Recipe, RecipeError, load
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.rollout.engines import Engines, engines
from services.rollout.episode import Tools, play
from services.rollout.scoring import scoring
from services.rollout.teaching import Teacher, teacher
from services.rollout.worker import Play, Worker

ACK_SECONDS = 10.0


async def serve(process: Process, args: argparse.Namespace) -> None:
    recipe = load(args.recipe)
    names = RunNames(recipe.run)
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(connect(args.nats, name=process.name, within=60))
        chat = await asyncio.to_thread(ChatTokenizer, recipe.model.path)
        worker = Worker(bus, names, recipe.model.path, await _player(stack, process, args, recipe, chat))

        def consumer(kind: str, at_once: int) -> TaskConsumer:
            return TaskConsumer(
                bus,
                names,
                "eval" if kind == "eval" else "train",
                ack_wait=ACK_SECONDS,
                max_deliver=recipe.rollout.deliveries,
                max_in_flight=at_once,
            )

        at_once = recipe.rollout.groups_per_worker
        await process.serving(worker.run(consumer("train", at_once)), worker.run(consumer("eval", 4 * at_once)))


async def _player(
    stack: AsyncExitStack, process: Process, args: argparse.Namespace, recipe: Recipe, chat: ChatTokenizer
) -> Play:
    """What plays one sample: an episode, or a row of the data set tokenised."""
    tools: dict[str, Tools] = {}
    if recipe.generates:
        rollout = recipe.rollout
        pool = await stack.enter_async_context(
            engines(args.generation, process.security, rollout.attempts, rollout.generation_timeout_seconds)
        )
        tutor = None
        if args.teacher:
            assert recipe.teacher is not None
            tutor = await stack.enter_async_context(teacher(args.teacher, process.security, recipe.teacher.top))
        for name, source in recipe.sources.items():
            tools[name] = await _tools(stack, process, args, source, chat, pool, tutor)

    async def player(task: pb.GroupTask, index: int, until: float) -> pb.Trajectory:
        if not task.HasField("rollout"):
            return tokenise(chat, recipe.model.path, task, index, recipe.data.train_on)
        return await play(tools[task.rollout.task.source], task, index, until)

    return player


async def _tools(
    stack: AsyncExitStack,
    process: Process,
    args: argparse.Namespace,
    recipe: Recipe,
    chat: ChatTokenizer,
    pool: Engines,
    tutor: Teacher | None,
) -> Tools:
    """What drives the episodes of one source of tasks."""
    assert recipe.environment is not None, "a recipe that generates has an environment"
    models = dict(each.split("=", 1) for each in args.reward)
    scorer = await stack.enter_async_context(scoring(recipe.rewards(), args.environment, process.security, models))
    stub, address = None, ""
    if recipe.environment.multi_turn:
        address = recipe.environment.address or args.environment[0]
        idempotent = ["penstock.environment.v1.EnvironmentService"]
        channel = await stack.enter_async_context(
            rpc.channel(address, security=process.security, idempotent=idempotent)
        )
        stub = environment_pb2_grpc.EnvironmentServiceStub(channel)
    return Tools(recipe.model.path, chat, pool, scorer, recipe.environment, stub, address, tutor)


def main() -> int:
    parser = flags("rollout", "Drives episodes: prompt, tokens, environment turns, reward, trajectory.")
    parser.add_argument("--recipe", type=pathlib.Path, required=True, help="the run's resolved recipe")
    parser.add_argument("--nats", required=True, help="nats://HOST:PORT")
    parser.add_argument("--generation", action="append", default=[], help="HOST:PORT of a replica; repeat for more")
    parser.add_argument("--environment", action="append", default=[], help="HOST:PORT of our environment service")
    parser.add_argument("--teacher", action="append", default=[], help="HOST:PORT of a teacher; repeat for more")
    parser.add_argument("--reward", action="append", default=[], help="NAME=HOST:PORT of a reward model")
    args = parser.parse_args()
    try:
        recipe = load(args.recipe)
    except RecipeError as error:
        parser.error(str(error))
    if recipe.generates and not args.generation:
        parser.error("--generation: at least one address is needed for this recipe")
    if recipe.teacher is not None and recipe.mode == "train" and not args.teacher:
        parser.error("--teacher: at least one address is needed for this recipe")
    if recipe.generates and not args.environment and not recipe.only_foreign_environments:
        parser.error("--environment: at least one address is needed for this recipe")
    missing = set(recipe.reward_models) - {each.partition("=")[0] for each in args.reward if "=" in each}
    if recipe.generates and missing:
        parser.error(f"--reward: the recipe's reward models need NAME=HOST:PORT; missing: {', '.join(sorted(missing))}")
    return run(args, serve, recipe.run)


if __name__ == "__main__":
    sys.exit(main())
