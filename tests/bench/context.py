"""Context parallelism on two ranks: heads exchanged (`ulysses`) against keys and values gathered (`gather`).

One training step of the same model on the same batch, the two forms in turn in the same processes; shapes of a batch
are one long sequence, or many short ones packed. Each rank reports how far its resident memory rose in a step above
what it held before. The losses must agree, or nothing is reported.
"""

import argparse
import ctypes
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist

from penstock.recipes.sections import Optimizer, Parallel
from penstock.tiny_model import make_model
from services.learner.algorithms.supervised import SupervisedLoss
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.testing.recipes import spec_of
from tests.bench.head_memory import peak_bytes, reset_peak
from tests.bench.report import Report, median_ratio, rounds

RANKS = 2
MIB = 2**20
SHAPES = {"1 x 4096": [4096], "1 x 8192": [8192], "128 x 64": [64] * 128, "mixed, 4096 in all": [16, 48] * 32 + [2048]}


def make_batch(lengths: list[int]) -> Batch:
    rng = np.random.default_rng(0)
    return Batch.from_samples(
        [
            TrainingSample(rng.integers(6, 60, n + 1), np.r_[0, np.ones(n)], np.zeros(n + 1), 1.0, i)
            for i, n in enumerate(lengths)
        ],
        "advantage",
    )


class Form:
    """The learner's policy with one form of context parallelism."""

    def __init__(self, model: pathlib.Path, form: Literal["gather", "ulysses"], tokens: int) -> None:
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()  # a policy keeps its groups; the globals are the last one's
        self.policy = MegatronPolicy.create(
            spec_of(
                model, Parallel(context=RANKS, context_attention=form), Optimizer(), micro_batch_tokens=tokens, seed=0
            )
        )
        self.peaks: list[int] = []

    def step(self, batch: Batch) -> float:
        """The loss of a step."""
        ctypes.CDLL(None).malloc_trim(0)
        before = reset_peak()
        loss = self.policy.train_step(batch, SupervisedLoss(batch.mask / batch.mask.sum())).loss
        self.peaks.append(peak_bytes() - before)
        return loss


def measure(rank: int, folder: pathlib.Path, shape: str, turns: int) -> None:
    """One rank of one shape; leaves its numbers in `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous-{shape}", rank=rank, world_size=RANKS)
    batch = make_batch(SHAPES[shape])
    forms = {name: Form(folder / "model", name, sum(SHAPES[shape])) for name in ("gather", "ulysses")}
    losses = {name: form.step(batch) for name, form in forms.items()}
    for form in forms.values():
        form.step(batch)  # a second one to warm up: the first made the optimizer's moments
        form.peaks.clear()
    seconds = rounds(turns, **{name: lambda form=form: form.step(batch) for name, form in forms.items()})
    peaks = {name: statistics.median(form.peaks) for name, form in forms.items()}
    (folder / f"{shape}-{rank}.json").write_text(json.dumps({"losses": losses, "seconds": seconds, "peaks": peaks}))
    dist.destroy_process_group()


def main(args: argparse.Namespace) -> None:
    report = Report("context", vars(args))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        sizes = {"hidden": 256, "layers": 2, "heads": 8, "kv_heads": 2, "head_dim": 32, "intermediate": 768}
        make_model(folder / "model", context=8192, **sizes)
        for shape in SHAPES:
            found = run(folder, shape, args.rounds)
            a, b = (found["losses"][form] for form in ("gather", "ulysses"))
            if not math.isclose(a, b, rel_tol=1e-4):
                raise SystemExit(f"{shape}: the losses differ, {a} and {b}: this would compare two different steps")
            report.add(
                sequences=shape,
                gather_s=statistics.median(found["seconds"]["gather"]),
                ulysses_s=statistics.median(found["seconds"]["ulysses"]),
                time_ratio=median_ratio(found["seconds"]["ulysses"], found["seconds"]["gather"]),
                gather_mib=found["peaks"]["gather"] / MIB,
                ulysses_mib=found["peaks"]["ulysses"] / MIB,
                memory_ratio=found["peaks"]["ulysses"] / found["peaks"]["gather"],
            )
    report.note(f"{RANKS} ranks, {sizes}; ratios: ulysses / gather (below 1: ulysses is better)")
    report.finish()


def run(folder: pathlib.Path, shape: str, turns: int) -> dict[str, Any]:
    """What rank 0 measured."""
    command = [
        sys.executable,
        "-m",
        "tests.bench.context",
        f"--folder={folder}",
        f"--shape={shape}",
        f"--rounds={turns}",
    ]
    ranks = [subprocess.Popen([*command, f"--rank={rank}"]) for rank in range(RANKS)]
    if any([process.wait() for process in ranks]):
        raise SystemExit(f"{shape}: a rank failed")
    found: dict[str, Any] = json.loads((folder / f"{shape}-0.json").read_text())
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank is None:
        main(given)
    else:
        measure(given.rank, given.folder, given.shape, given.rounds)
