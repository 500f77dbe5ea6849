"""penstock serve rollout: drives episodes."""

import argparse
import asyncio
import pathlib
import sys

from penstock.bus import RunNames, TaskConsumer, TaskKind, connect
from penstock.chat import ChatTokenizer
from penstock.process import Process, flags, nats_flags, nats_login, run
from penstock.recipes import RecipeError, load
from services.rollout.players import Addresses, player
from services.rollout.worker import Worker


async def serve(process: Process, args: argparse.Namespace) -> None:
    recipe = load(args.recipe)
    names = RunNames(recipe.run)
    rewards = dict(each.split("=", 1) for each in args.reward if "=" in each)
    judges: dict[str, list[str]] = {}
    for name, address in (each.split("=", 1) for each in args.judge if "=" in each):
        judges.setdefault(name, []).append(address)
    addresses = Addresses(args.generation, args.environment, args.teacher, rewards, judges)
    data = recipe.data
    chat = await asyncio.to_thread(ChatTokenizer, recipe.model.path, data.thinking, data.control_tokens)
    async with (
        connect(args.nats, name=process.name, login=nats_login(args, process.security), within=60) as bus,
        player(recipe, chat, addresses, process.security) as plays,
    ):
        worker = Worker(bus, names, recipe.model.path, plays.play, recipe.sources, recipe.limits.group_deadline_seconds)

        def consumer(kind: TaskKind, at_once: int) -> TaskConsumer:
            return TaskConsumer(
                bus,
                names,
                kind,
                max_deliver=recipe.rollout.deliveries,
                max_in_flight=at_once,
            )

        at_once = recipe.rollout.groups_per_worker
        await process.serving(worker.run(consumer("train", at_once)), worker.run(consumer("eval", 4 * at_once)))


def main() -> int:
    parser = flags("rollout", "Drives episodes: prompt, tokens, environment turns, reward, trajectory.")
    parser.add_argument("--recipe", type=pathlib.Path, required=True, help="the run's resolved recipe")
    nats_flags(parser)
    parser.add_argument("--generation", action="append", default=[], help="HOST:PORT of a replica; repeat for more")
    parser.add_argument("--environment", action="append", default=[], help="HOST:PORT of our environment service")
    parser.add_argument("--teacher", action="append", default=[], help="HOST:PORT of a teacher; repeat for more")
    parser.add_argument("--reward", action="append", default=[], help="NAME=HOST:PORT of a reward model")
    parser.add_argument(
        "--judge", action="append", default=[], help="NAME=HOST:PORT of a judge's engine; repeat for more"
    )
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
    silent = set(recipe.judges) - {each.partition("=")[0] for each in args.judge if "=" in each}
    if recipe.generates and silent:
        parser.error(f"--judge: the recipe's judges need NAME=HOST:PORT; missing: {', '.join(sorted(silent))}")
    return run(args, serve, recipe.run)


if __name__ == "__main__":
    sys.exit(main())
