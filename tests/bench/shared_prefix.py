"""What sharing what samples begin with is worth: a learner's step with `share_prefixes` and without, on both backends.

One process, the same random weights and the same batch, the two in turn; memory is how far a step's resident memory
rises above what the process held before. The losses must agree, or nothing is reported. The default model has the
proportions of a small real one (its head is a quarter of its body), so that ratios carry over better than seconds do;
`--model` takes a directory instead.

    short      8 groups of 8, prompts of 46 tokens of which 23 are every group's, answers of 12 to 24
    long       2 groups of 8, prompts of 512 of which 256 are both groups', answers of 32 to 64
    pairs      8 pairs of an answer chosen and one rejected (DPO), prompts of 256, answers of 32 to 64
    nothing    32 samples of 64 tokens that share nothing: what folding costs where it finds nothing
"""

import argparse
import ctypes
import math
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist

from penstock.packing import fold
from services.learner.algorithms.table import algorithm_of, make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.interface.policy import Policy
from services.learner.testing.recipes import recipe_of, spec_of
from tests.bench.head_memory import peak_bytes, reset_peak
from tests.bench.report import Report, median_ratio, rounds

MIB = 2**20
BACKENDS: dict[str, Callable[..., Policy]] = {
    "megatron": MegatronPolicy.create,
    "transformers": TransformersPolicy.create,
}
Method = Literal["grpo", "dpo"]
BATCHES: dict[str, tuple[Method, int, int, int, int, tuple[int, int], int]] = {
    # method, groups, their size, tokens of a prompt, of these every group's, of an answer, of a micro-batch
    "short": ("grpo", 8, 8, 46, 23, (12, 24), 1024),
    "long": ("grpo", 2, 8, 512, 256, (32, 64), 2048),
    "pairs": ("dpo", 8, 2, 256, 0, (32, 64), 2048),
    "nothing": ("grpo", 32, 1, 32, 0, (32, 32), 1024),
}


def make_batch(name: str, vocabulary: int) -> Batch:
    """The samples of a row."""
    method, groups, size, prompt, common, (shortest, longest), _ = BATCHES[name]
    rng = np.random.default_rng(0)
    system, samples = rng.integers(0, vocabulary, common), []
    for group in range(groups):
        begins = np.r_[system, rng.integers(0, vocabulary, prompt - common)]
        for i in range(size):
            answer = rng.integers(0, vocabulary, int(rng.integers(shortest, longest + 1)))
            mask = np.r_[np.zeros(prompt), np.ones(len(answer))]
            signal = float(rng.normal()) if method == "grpo" else 1.0 - 2 * i
            samples.append(TrainingSample(np.r_[begins, answer], mask, -10.0 * mask, signal, group))
    return Batch.from_samples(samples, algorithm_of(recipe_of(method)).signal)


class Side:
    """A trainer of a policy that shares, or does not."""

    def __init__(self, model: pathlib.Path, backend: str, method: Method, budget: int, shares: bool) -> None:
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()  # a policy keeps its groups; the globals are the last one's
        recipe = recipe_of(method)
        reference = recipe.compares_with_reference
        spec = spec_of(model, micro_batch_tokens=budget, share_prefixes=shares, keep_reference=reference)
        self._trainer = make_trainer(recipe, BACKENDS[backend](spec))
        self.peaks: list[int] = []

    def step(self, batch: Batch) -> dict[str, float]:
        """The metrics of a step."""
        ctypes.CDLL(None).malloc_trim(0)
        before = reset_peak()
        metrics = self._trainer.step(batch).metrics
        self.peaks.append(peak_bytes() - before)
        return metrics


def make_directory(folder: pathlib.Path, args: argparse.Namespace) -> pathlib.Path:
    """A Qwen3 with random weights."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        num_key_value_heads=max(args.hidden // 192, 1),
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def measure(report: Report, model: pathlib.Path, backend: str, name: str, args: argparse.Namespace) -> None:
    """One row: the two sides in turn."""
    batch = make_batch(name, args.vocabulary)
    method, *_, budget = BATCHES[name]
    sides = {label: Side(model, backend, method, budget, label == "shared") for label in ("shared", "not")}
    first = {label: side.step(batch) for label, side in sides.items()}
    losses = [metrics["loss"] for metrics in first.values()]
    if not math.isclose(*losses, rel_tol=1e-4, abs_tol=1e-6):
        raise SystemExit(f"{backend}, {name}: the losses differ, {losses}: this would compare different steps")
    for side in sides.values():
        side.step(batch)  # a second one to warm up: the first made the optimizer's moments
        side.peaks.clear()
    seconds = rounds(args.rounds, **{label: lambda side=side: side.step(batch) for label, side in sides.items()})
    peaks = {label: statistics.median(side.peaks) for label, side in sides.items()}
    report.add(
        backend=backend,
        batch=name,
        given=int(first["shared"]["rl.tokens.given"]),
        computed=int(first["shared"]["rl.tokens.computed"]),
        seconds=statistics.median(seconds["shared"]),
        not_shared=statistics.median(seconds["not"]),
        time_ratio=median_ratio(seconds["shared"], seconds["not"]),
        mib=peaks["shared"] / MIB,
        memory_ratio=peaks["shared"] / peaks["not"],
    )


def folding_seconds() -> float:
    """Of 4,096 sequences of 2,048 tokens in groups of 16 that have half of them in common."""
    rng, sequences = np.random.default_rng(0), []
    for _ in range(256):
        prompt = rng.integers(0, 50_000, 1024)
        sequences += [np.r_[prompt, rng.integers(0, 50_000, 1024)].astype(np.int32) for _ in range(16)]
    began = time.perf_counter()
    fold(sequences)
    return time.perf_counter() - began


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    report = Report("shared_prefix", vars(args))
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or make_directory(pathlib.Path(folder, "model"), args)
        for backend in args.backends:
            for name in args.batches:
                measure(report, model, backend, name, args)
    folding = min(folding_seconds() for _ in range(3))
    report.note(
        f"ratios: shared to not, fp32; folding 4,096 sequences of 2,048 tokens in groups of 16: {folding:.3f} s"
    )
    report.finish()
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=384, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8192, help="tokens drawn, and those of the random model")
    parser.add_argument("--model", type=pathlib.Path, help="directory of a model to use instead of a random one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--batches", nargs="+", choices=BATCHES, default=list(BATCHES))
    main(parser.parse_args())
