"""What recomputation costs and saves: a training step with `none`, `selective` and `full`, on both backends.

One process, the same model and batch, the three in turn; memory is how far a step's resident memory rises above what
the process held before. The losses must agree, or nothing is reported.
"""

import argparse
import ctypes
import math
import pathlib
import statistics
import tempfile
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist

from penstock.tiny_model import make_model
from services.learner.algorithms.supervised import SupervisedLoss
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.interface.policy import Policy
from services.learner.testing.recipes import spec_of
from tests.bench.head_memory import peak_bytes, reset_peak
from tests.bench.report import Report, median_ratio, rounds

MIB = 2**20
BACKENDS: dict[str, Callable[..., Policy]] = {
    "megatron": MegatronPolicy.create,
    "transformers": TransformersPolicy.create,
}
KINDS: tuple[Literal["none", "selective", "full"], ...] = ("none", "selective", "full")


class Kind:
    """A policy that recomputes so much."""

    def __init__(self, model: pathlib.Path, backend: str, kind: Literal["none", "selective", "full"]) -> None:
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()  # a policy keeps its groups; the globals are the last one's
        self.policy = BACKENDS[backend](spec_of(model, micro_batch_tokens=8192, recompute=kind))
        self.peaks: list[int] = []

    def step(self, batch: Batch) -> float:
        """The loss of a step."""
        ctypes.CDLL(None).malloc_trim(0)
        before = reset_peak()
        loss = self.policy.train_step(batch, SupervisedLoss(batch.mask / batch.mask.sum())).loss
        self.peaks.append(peak_bytes() - before)
        return loss


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    report = Report("recompute", vars(args))
    rng = np.random.default_rng(0)
    lengths = [256] * 16
    batch = Batch.from_samples(
        [
            TrainingSample(rng.integers(6, 60, n + 1), np.r_[0, np.ones(n)], np.zeros(n + 1), 1.0, i)
            for i, n in enumerate(lengths)
        ],
        "advantage",
    )
    sizes = {"hidden": 320, "layers": 6, "heads": 4, "kv_heads": 2, "head_dim": 80, "intermediate": 960}
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder, "model")
        make_model(model, context=512, **sizes)
        for backend in BACKENDS:
            kinds = {kind: Kind(model, backend, kind) for kind in KINDS}
            losses = [kind.step(batch) for kind in kinds.values()]
            if not all(math.isclose(loss, losses[0], rel_tol=1e-5) for loss in losses):
                raise SystemExit(f"{backend}: the losses differ, {losses}: this would compare different steps")
            for kind in kinds.values():
                kind.step(batch)  # a second one to warm up: the first made the optimizer's moments
                kind.peaks.clear()
            seconds = rounds(args.rounds, **{name: lambda kind=kind: kind.step(batch) for name, kind in kinds.items()})
            peaks = {name: statistics.median(kind.peaks) for name, kind in kinds.items()}
            for name in KINDS:
                report.add(
                    backend=backend,
                    recompute=name,
                    seconds=statistics.median(seconds[name]),
                    time_ratio=median_ratio(seconds[name], seconds["none"]),
                    mib=peaks[name] / MIB,
                    memory_ratio=peaks[name] / peaks["none"],
                )
    report.note(f"{sum(lengths)} tokens, {sizes}; ratios: to none")
    report.finish()
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args())
