"""penstock serve learner: trains the policy. More than one rank runs under torchrun, which this starts by itself."""

import argparse
import ctypes
import datetime
import logging
import os
import pathlib
import signal
import sys
from typing import TYPE_CHECKING

from penstock.process import flags
from penstock.process.main import EXIT_BAD_INPUT, security
from penstock.recipes import Recipe, RecipeError, load
from penstock.telemetry import logs, metrics, tracing

if TYPE_CHECKING:
    from services.learner.ranks.watching import Watch

logger = logging.getLogger("services.learner")

EXIT_DIED = 1


def main() -> int:
    args = _arguments()
    try:
        recipe = load(args.recipe)
    except RecipeError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_INPUT
    if "RANK" not in os.environ and recipe.learner.ranks > 1:
        return _group(args, recipe)
    return _rank(args, recipe)


def _rank(args: argparse.Namespace, recipe: Recipe) -> int:
    """One rank's life."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no rank outlives its launcher
    os.environ.setdefault("OMP_NUM_THREADS", str(recipe.learner.threads))
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    name = args.name if rank == 0 else f"{args.name}-rank{rank}"
    logs.configure(name, run=recipe.run, level=args.log_level)
    tracer = tracing.configure(name, run=recipe.run, path=args.trace_file, ratio=args.trace_fraction)
    import torch
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    from penstock.datasets import DatasetError
    from penstock.objectives import UnknownChoice
    from services.learner.algorithms.plugins import PluginError
    from services.learner.checkpoints.directory import CheckpointError
    from services.learner.interface.errors import CannotGoOn, LayoutError, UnsupportedModel
    from services.learner.ranks.watching import leave
    from services.learner.run import Place, export_checkpoint, learn

    torch.set_num_threads(recipe.learner.threads)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store = None if world > 1 else dist.HashStore()
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(minutes=recipe.learner.collective_minutes),
    )
    watch = _watch(recipe) if world > 1 else None
    if rank == 0:
        metrics.serve(args.metrics_port)
    place = Place(
        args.run_directory,
        args.nats,
        args.weight_sync,
        args.listen,
        args.announce,
        args.name,
        security(args),
        args.reflection,
    )
    try:
        if args.export is not None:
            export_checkpoint(recipe, args.checkpoint, args.export)
        else:
            learn(recipe, place, watch.at if watch is not None else lambda place: None)
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
        return EXIT_BAD_INPUT
    except RuntimeError as error:
        if watch is not None:  # most likely a collective: where are the others?
            logger.exception("a rank's work failed; meanwhile %s", where := watch.whereabouts())
            leave(RuntimeError(f"{error}; meanwhile {where}"), EXIT_DIED)
        raise
    finally:
        if tracer is not None:
            tracer.shutdown()
    if watch is not None:
        dist.barrier()  # nobody is missed while the others still work
        watch.stop()
    dist.destroy_process_group()
    return 0


def _watch(recipe: Recipe) -> "Watch":
    """This rank's look at the others. Its connection to the ranks' store is its own: the other one may be in use."""
    import torch.distributed as dist

    from services.learner.ranks.watching import Watch

    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return Watch(store, recipe.learner.hung_seconds)


def _group(args: argparse.Namespace, recipe: Recipe) -> int:
    """This very command on every rank."""
    logs.configure(args.name, run=recipe.run, level=args.log_level)
    from services.learner.ranks.launching import launch

    return launch(recipe.learner.ranks, [sys.executable, "-m", "services.learner", *sys.argv[1:]])


def _arguments() -> argparse.Namespace:
    parser = flags("learner", "Trains the policy with Megatron-Core or transformers.")
    parser.add_argument("--recipe", type=pathlib.Path, required=True, help="the run's resolved recipe")
    parser.add_argument("--run-directory", type=pathlib.Path, required=True, help="where checkpoints and export go")
    parser.add_argument("--nats", help="nats://HOST:PORT")
    parser.add_argument("--weight-sync", help="HOST:PORT of weight_sync")
    parser.add_argument("--export", type=pathlib.Path, help="train nothing: write --checkpoint there as a model")
    parser.add_argument("--checkpoint", type=pathlib.Path, help="with --export: a checkpoint of the recipe's run")
    args = parser.parse_args()
    needed = ("checkpoint",) if args.export is not None else ("nats", "weight_sync")
    missing = ["--" + name.replace("_", "-") for name in needed if getattr(args, name) is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
