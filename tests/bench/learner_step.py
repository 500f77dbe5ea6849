"""One policy-gradient step: our learner on either backend, packed batches, against plain Hugging Face torch.

The same weights, the same batch, the same loss (clipped ratio, truncated importance weights, token normalisation), the
same AdamW, float32, one thread, in one process and in turn. Plain torch is what a careful user would write:
micro-batches of similar lengths, padded, within the same token budget. `unsorted` is the same with sequences as they
come: what packing gains where nobody sorts. The first step's losses must agree, or nothing is reported.
"""

import argparse
import math
import pathlib
import statistics
import tempfile
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from penstock.recipes.sections import Optimizer, Parallel
from penstock.tiny_model import make_model
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.testing.recipes import recipe_of, spec_of
from tests.bench.report import Report, median_ratio, rounds

SIZES: dict[str, dict[str, int]] = {
    "1M": {},
    "10M": {"hidden": 320, "layers": 6, "heads": 4, "kv_heads": 2, "head_dim": 80, "intermediate": 1408},
    "20M": {"hidden": 384, "layers": 8, "heads": 6, "kv_heads": 2, "head_dim": 64, "intermediate": 1792},
}
RATE, CLIP_LOW, CLIP_HIGH, CAP = 1e-4, 0.2, 0.28, 2.0


def make_samples(groups: int, group_size: int) -> list[TrainingSample]:
    """Groups of the quickstart's shape: prompts of n + 2 tokens, answers of n + 1, n heavy-tailed."""
    rng = np.random.default_rng(0)
    samples = []
    for group in range(groups):
        n = int(np.clip(round(math.exp(rng.normal(2.3, 0.6))), 3, 36))
        for _ in range(group_size):
            tokens = rng.integers(6, 60, 2 * n + 3)
            mask = np.r_[np.zeros(n + 2), np.ones(n + 1)]
            logprobs = rng.normal(-4.2, 0.3, len(tokens))
            samples.append(TrainingSample(tokens, mask, logprobs, float(rng.normal()), group))
    return samples


class Plain:
    """transformers, padding, autograd, AdamW."""

    def __init__(self, path: pathlib.Path, samples: list[TrainingSample], budget: int, by_length: bool = True) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        decayed = self.model.parameters()
        self.optimizer = torch.optim.AdamW(decayed, lr=RATE, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
        self.samples = sorted(samples, key=_length) if by_length else list(samples)
        self.trained = float(sum(np.asarray(s.loss_mask).sum() for s in samples))
        self.budget = budget

    def step(self) -> float:
        """One optimizer step; the loss."""
        total = 0.0
        for part in self._micro_batches():
            loss = self._loss(part)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _micro_batches(self) -> list[list[TrainingSample]]:
        parts: list[list[TrainingSample]] = [[]]
        for sample in self.samples:
            if (len(parts[-1]) + 1) * max(map(_length, [*parts[-1], sample])) > self.budget:
                parts.append([])
            parts[-1].append(sample)
        return parts

    @property
    def padding(self) -> float:
        """Share of the positions that are padding."""
        parts = self._micro_batches()
        positions = sum(len(part) * max(map(_length, part)) for part in parts)
        return 1 - sum(map(_length, self.samples)) / positions

    def _loss(self, part: list[TrainingSample]) -> torch.Tensor:
        longest = max(map(_length, part))

        def padded(rows: list[Any], dtype: Any) -> torch.Tensor:
            full = np.zeros((len(rows), longest), dtype)
            for i, row in enumerate(rows):
                full[i, : len(row)] = row
            return torch.from_numpy(full)

        tokens = padded([s.tokens for s in part], np.int64)
        real = padded([np.ones(len(np.asarray(s.tokens))) for s in part], np.int64)
        mask, behaviour = (
            padded([getattr(s, f) for s in part], np.float32)[:, 1:] for f in ("loss_mask", "behaviour_logprobs")
        )
        advantage = torch.tensor([s.signal for s in part], dtype=torch.float32)[:, None]
        logits = self.model(input_ids=tokens, attention_mask=real).logits[:, :-1].float()
        current = torch.log_softmax(logits, -1).gather(-1, tokens[:, 1:, None])[..., 0]
        proximal = current.detach()
        ratio = torch.exp(current - proximal)
        clipped = torch.min(ratio * advantage, ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH) * advantage)
        weight = torch.exp(proximal - behaviour).clamp(max=CAP)
        return -(weight * clipped * mask).sum() / self.trained


def _length(sample: TrainingSample) -> int:
    return len(np.asarray(sample.tokens))


class Ours:
    """A backend's policy and the trainer as the service builds them."""

    def __init__(
        self,
        path: pathlib.Path,
        samples: list[TrainingSample],
        budget: int,
        backend: type[MegatronPolicy] | type[TransformersPolicy] = MegatronPolicy,
    ) -> None:
        policy = backend.create(
            spec_of(path, Parallel(), Optimizer(learning_rate=RATE), micro_batch_tokens=budget, seed=0)
        )
        recipe = recipe_of(clip_low=CLIP_LOW, clip_high=CLIP_HIGH, correction_cap=CAP)
        self.trainer, self.batch = make_trainer(recipe, policy), Batch.from_samples(samples, "advantage")

    def step(self) -> float:
        """One optimizer step; the loss."""
        return self.trainer.step(self.batch).metrics["loss"]


def main(args: argparse.Namespace) -> None:
    from megatron.core import parallel_state

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    report = Report("learner_step", vars(args))
    samples = make_samples(args.groups, args.group_size)
    tokens = sum(map(_length, samples))
    for size, shape in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model")
            make_model(path, **shape)
            plain = Plain(path, samples, args.budget)
            unsorted = Plain(path, samples, args.budget, by_length=False)
            megatron = Ours(path, samples, args.budget)
            transformers = Ours(path, samples, args.budget, TransformersPolicy)
            contestants = {
                "plain": plain.step,
                "unsorted": unsorted.step,
                "megatron": megatron.step,
                "transformers": transformers.step,
            }
            losses = {name: step() for name, step in contestants.items()}
            if any(not math.isclose(x, losses["plain"], rel_tol=1e-3, abs_tol=1e-5) for x in losses.values()):
                raise SystemExit(f"{size}: the losses differ, {losses}: this would compare different steps")
            seconds = rounds(args.rounds, **contestants)
            report.add(
                model=size,
                plain_tokens_per_s=tokens / statistics.median(seconds["plain"]),
                megatron=median_ratio(seconds["megatron"], seconds["plain"]),
                transformers=median_ratio(seconds["transformers"], seconds["plain"]),
                packing_gain=median_ratio(seconds["unsorted"], seconds["megatron"]),
                padding_sorted=plain.padding,
                padding_unsorted=unsorted.padding,
            )
        parallel_state.destroy_model_parallel()  # Megatron's groups are global; the next size builds its own
    report.note(
        f"{len(samples)} sequences, {tokens} tokens a step; a backend's column: its time / plain torch's (1 = equal)"
    )
    report.note("packing_gain: time of unsorted / megatron; padding: share of plain torch's positions, ours has none")
    report.finish()
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a micro-batch")
    parser.add_argument("--rounds", type=int, default=7)
    main(parser.parse_args())
