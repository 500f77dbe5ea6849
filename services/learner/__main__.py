"""penstock serve learner: trains the policy. More than one rank runs under torchrun, which this starts by itself."""

import argparse
import ctypes
import datetime
import logging
import os
import pathlib
import signal
import sys

from penstock.process import flags
from penstock.process.main import EXIT_BAD_INPUT, security
from penstock.recipes import Recipe, RecipeError, load
from penstock.telemetry import logs, metrics, tracing

logger = logging.getLogger("services.learner")

# A collective that waits longer than this has lost a rank: the group ends and is started again from its checkpoint.
COLLECTIVE_SECONDS = 120


def main() -> int:
    args = _arguments()
    try:
        recipe = load(args.recipe)
    except RecipeError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_INPUT
    if "RANK" not in os.environ and recipe.learner.ranks > 1:
        _torchrun(recipe.learner.ranks)
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

    from services.learner.ending import CannotGoOn
    from services.learner.hf_config import UnsupportedModel
    from services.learner.layout import LayoutError
    from services.learner.run import Place, learn

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
        timeout=datetime.timedelta(seconds=COLLECTIVE_SECONDS),
    )
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
        learn(recipe, place)
    except (LayoutError, UnsupportedModel) as error:
        logger.error("cannot start: %s", error)
        return EXIT_BAD_INPUT
    except CannotGoOn as error:
        logger.error("cannot go on: %s", error)
        return EXIT_BAD_INPUT
    finally:
        if tracer is not None:
            tracer.shutdown()
    dist.destroy_process_group()
    return 0


def _torchrun(ranks: int) -> None:
    """Becomes torchrun with this very command on every rank."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    os.execv(sys.executable, [*command, "-m", "services.learner", *sys.argv[1:]])


def _arguments() -> argparse.Namespace:
    parser = flags("learner", "Trains the policy with Megatron-Core.")
    parser.add_argument("--recipe", type=pathlib.Path, required=True, help="the run's resolved recipe")
    parser.add_argument("--run-directory", type=pathlib.Path, required=True, help="where checkpoints and export go")
    parser.add_argument("--nats", required=True, help="nats://HOST:PORT")
    parser.add_argument("--weight-sync", required=True, help="HOST:PORT of weight_sync")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
