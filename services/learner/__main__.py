"""penstock serve learner: trains the policy. More than one rank runs under torchrun, which this starts by itself; of
several nodes each is a process that finds the others in the run, and starts its ranks when all are there."""

import argparse
import datetime
import logging
import os
import pathlib
import platform
import sys
from typing import TYPE_CHECKING

from penstock.process import Process, advertised, check_accelerator, flags, observed, security, serve_metrics
from penstock.process import run as run_process
from penstock.recipes import Recipe, RecipeError, load
from penstock.rpc import Security
from penstock.system import exits
from penstock.system.parent_death import die_with_parent
from penstock.telemetry import logs

if TYPE_CHECKING:
    from services.learner.ranks.watching import Watch

logger = logging.getLogger("services.learner")
NODE, RANK = "PENSTOCK_NODE", "TORCHELASTIC_RUN_ID"
"""Set for what a node starts (see ranks.meeting), and for what torchrun's agent does."""


def main() -> int:
    args = _arguments()
    try:
        recipe = load(args.recipe, rows=False)
    except RecipeError as error:
        sys.stderr.write(f"{error}\n")
        return exits.BAD_INPUT
    try:
        held = security(args)
        check_accelerator()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot start: {error}\n")
        return exits.BAD_INPUT
    if RANK in os.environ:
        return _rank(args, recipe, held)
    if recipe.learner.nodes > 1 and args.export is None and NODE not in os.environ:
        return _node(args, recipe)
    return _group(args, recipe) if recipe.learner.ranks > 1 else _rank(args, recipe, held)


def _rank(args: argparse.Namespace, recipe: Recipe, held: Security) -> int:
    """One rank's life."""
    die_with_parent()  # no rank outlives its launcher
    os.environ.setdefault("OMP_NUM_THREADS", str(recipe.learner.threads))
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    with observed(args, args.name if rank == 0 else f"{args.name}-rank{rank}", recipe.run):
        _join(recipe, rank, world)
        watch = _watch(recipe) if world > 1 else None
        if rank == 0:
            args.metrics_port = serve_metrics(args, held)
        code = _work(args, recipe, held, watch)
    if code != exits.DONE:
        return code
    import torch.distributed as dist

    if watch is not None:
        dist.barrier()  # nobody is missed while the others still work
        watch.stop()
    dist.destroy_process_group()
    return code


def _join(recipe: Recipe, rank: int, world: int) -> None:
    """Makes this process a rank of the group, on a device of its own."""
    import torch
    import torch.distributed as dist

    from services.learner.ranks.meeting import store

    torch.set_num_threads(recipe.learner.threads)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=store(world),
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(minutes=recipe.learner.collective_minutes),
    )


def _work(args: argparse.Namespace, recipe: Recipe, held: Security, watch: "Watch | None") -> int:
    """Trains, or exports; the exit code. An end that would come again is told to torchrun's agent in one line."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    from penstock.datasets import DatasetError
    from penstock.objectives import UnknownChoice
    from services.learner.algorithms.plugins import PluginError
    from services.learner.checkpoints.directory import CheckpointError
    from services.learner.interface.errors import CannotGoOn, LayoutError, UnsupportedModel
    from services.learner.leader.leader import Addresses
    from services.learner.ranks.watching import leave
    from services.learner.run import Evicted, export_checkpoint, learn

    try:
        if args.export is not None:
            export_checkpoint(recipe, args.checkpoint, args.export)
        else:
            learn(
                recipe, args.run_directory, Addresses(args, held), watch.at if watch is not None else lambda what: None
            )
    except (
        LayoutError,
        UnsupportedModel,
        PluginError,
        UnknownChoice,
        CannotGoOn,
        CheckpointError,
        DatasetError,
    ) as error:
        logger.error("cannot go on: %s", error)
        get_error_handler().record_exception(error)
        return exits.BAD_INPUT
    except Evicted as evicted:
        logger.warning("%s", evicted)
        return exits.FAILED
    except RuntimeError as error:
        if watch is not None:  # most likely a collective: where are the others?
            logger.exception("a rank's work failed; meanwhile %s", where := watch.whereabouts())
            leave(RuntimeError(f"{error}; meanwhile {where}"), exits.FAILED)
        raise
    return exits.DONE


def _watch(recipe: Recipe) -> "Watch":
    """This rank's look at the others. Its connection to the ranks' store is its own: the other one may be in use."""

    from services.learner.ranks.meeting import notes
    from services.learner.ranks.watching import Watch

    hung = recipe.learner.hung_seconds
    return Watch(notes(min(10.0, hung / 4)), hung)


def _group(args: argparse.Namespace, recipe: Recipe) -> int:
    """This very command on every rank of this node."""
    logs.configure(args.name, run=recipe.run, level=args.log_level)
    from services.learner.ranks.launching import launch

    return launch(recipe.learner.ranks // recipe.learner.nodes, _again())


def _node(args: argparse.Namespace, recipe: Recipe) -> int:
    """One node of several. Its ranks, where the first of all is among them, have the addresses that the flags name."""
    from services.learner.nodes.claims import told_rank
    from services.learner.nodes.node import KIND, NodeLife
    from services.learner.ranks.meeting import own_address

    name = args.name if args.name != "learner" else f"learner-{platform.node()}"
    try:
        rank = told_rank(args.node_rank, os.environ, platform.node(), recipe.learner.nodes)
        host = own_address(advertised(args.advertise or args.listen, args.nats).rpartition(":")[0].strip("[]"))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot start: {error}\n")
        return exits.BAD_INPUT
    listens, ends = args.listen.rpartition(":")[0], args.ends_with_run
    flags_of_node = {"name": name, "part": KIND, "advertise": None, "ends_with_run": False, "metrics_port": 0}
    if rank in (None, 0):  # rank 0 is here, and listens there
        flags_of_node["listen"] = f"{listens}:0"
    node = argparse.Namespace(**{**vars(args), **flags_of_node})

    async def serve(process: Process, args: argparse.Namespace) -> None:
        life = NodeLife(
            process,
            _again(),
            recipe.learner.nodes,
            args.run_directory / "checkpoints",
            recipe.learner.rejoin_seconds,
            host,
            rank,
            ends,
        )
        await process.serving(life.run(), ready=life.ready, gives_back=True)

    return run_process(node, serve, recipe.run)


def _again() -> list[str]:
    """This very command."""
    return [sys.executable, "-m", "services.learner", *sys.argv[1:]]


def _arguments() -> argparse.Namespace:
    parser = flags("learner", "Trains the policy with Megatron-Core or transformers.")
    parser.add_argument("--recipe", type=pathlib.Path, required=True, help="the run's resolved recipe")
    parser.add_argument("--run-directory", type=pathlib.Path, required=True, help="where checkpoints and export go")
    parser.add_argument("--node-rank", type=int, help="which of learner.nodes this is; else the first that is free")
    parser.add_argument("--weight-sync", help="HOST:PORT of weight_sync, where it is not found in the run")
    parser.add_argument("--export", type=pathlib.Path, help="train nothing: write --checkpoint there as a model")
    parser.add_argument("--checkpoint", type=pathlib.Path, help="with --export: a checkpoint of the recipe's run")
    args = parser.parse_args()
    needed = ("checkpoint",) if args.export is not None else ("nats",)
    missing = ["--" + name.replace("_", "-") for name in needed if getattr(args, name) is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
