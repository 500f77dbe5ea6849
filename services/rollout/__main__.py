"""penstock serve rollout: drives episodes."""

import argparse
import asyncio
import pathlib
import sys

from penstock.bus import TaskConsumer, TaskKind
from penstock.chat import ChatTokenizer
from penstock.process import Process, flags, run
from penstock.recipes import RecipeError, load
from services.rollout.players import Addresses, player
from services.rollout.worker import Worker


async def serve(process: Process, args: argparse.Namespace) -> None:
    recipe, part = load(args.recipe, rows=False), process.joined
    rewards = dict(each.split("=", 1) for each in args.reward)
    judges: dict[str, list[str]] = {}
    for name, address in (each.split("=", 1) for each in args.judge):
        judges.setdefault(name, []).append(address)
    addresses = Addresses(args.generation, args.environment, args.gateway, args.teacher, rewards, judges)
    data = recipe.data
    chat = await asyncio.to_thread(ChatTokenizer, recipe.model.path, data.thinking, data.control_tokens)
    async with player(recipe, chat, addresses, process.security, part.watcher, part.member.zone) as plays:
        worker = Worker(
            part.bus, part.names, recipe.model.path, plays.play, recipe.sources, recipe.limits.group_deadline_seconds
        )

        def consumer(kind: TaskKind, at_once: int) -> TaskConsumer:
            return TaskConsumer(
                part.bus,
                part.names,
                kind,
                max_deliver=recipe.rollout.deliveries,
                max_in_flight=at_once,
            )

        at_once = recipe.rollout.groups_per_worker
        part.member.capacity = at_once
        await process.serving(
            worker.run(consumer("train", at_once)), worker.run(consumer("eval", 4 * at_once)), gives_back=True
        )


def main() -> int:
    parser = flags("rollout", "Drives episodes: prompt, tokens, environment turns, reward, trajectory.", nats=True)
    parser.add_argument("--recipe", type=pathlib.Path, required=True, help="the run's resolved recipe")
    parser.add_argument("--generation", action="append", default=[], help="HOST:PORT of a replica; repeat for more")
    parser.add_argument("--environment", action="append", default=[], help="HOST:PORT of our environment service")
    parser.add_argument("--gateway", action="append", default=[], help="HOST:PORT of a gateway; repeat for more")
    parser.add_argument("--teacher", action="append", default=[], help="HOST:PORT of a teacher; repeat for more")
    parser.add_argument("--reward", action="append", default=[], help="NAME=HOST:PORT of a reward model")
    parser.add_argument(
        "--judge", action="append", default=[], help="NAME=HOST:PORT of a judge's engine; repeat for more"
    )
    args = parser.parse_args()
    try:
        recipe = load(args.recipe, rows=False)
    except RecipeError as error:
        parser.error(str(error))
    for flag, given, known in (("reward", args.reward, recipe.reward_models), ("judge", args.judge, recipe.judges)):
        for each in given:
            name, equals, _ = each.partition("=")
            if not equals or name not in known:
                names = ", ".join(sorted(known)) or "none"
                parser.error(f"--{flag}: {each!r} must be NAME=HOST:PORT, NAME one of the recipe's ({names})")
    return run(args, serve, recipe.run)


if __name__ == "__main__":
    sys.exit(main())
