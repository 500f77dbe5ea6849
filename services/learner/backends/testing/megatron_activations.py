"""Measures what a forward pass leaves in memory for the backward pass."""

from pathlib import Path

import torch

from penstock.recipes.sections import Parallel
from services.learner.backends.megatron_core.attention import PackedSequences
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.packing import micro_batches
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.testing.recipes import spec_of


def kept_bytes(model_dir: Path, parallel: Parallel, recompute: str, lengths: list[int]) -> tuple[int, int, int]:
    """(bytes that autograd keeps of one forward pass, parameters aside; local tokens; this rank's parameters)."""
    spec = spec_of(model_dir, parallel, micro_batch_tokens=sum(lengths), recompute=recompute, seed=1)
    policy = MegatronPolicy.create(spec)
    samples = [TrainingSample([1] * (n + 1), [0] * n + [1], [0.0] * (n + 1), 1.0, 0) for n in lengths]
    part = micro_batches.plan(Batch.from_samples(samples, "advantage"), policy.layout.cut, sum(lengths)).parts[0]
    parameters = {p.untyped_storage().data_ptr() for p in policy._models[0].parameters()}
    kept: dict[int, torch.Tensor] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = t
        return t

    packed = PackedSequences.of(part.pack, part.tokens.device)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        policy._chunks[0](part.tokens, part.positions, None, packed_seq_params=packed)
    numbers = sum(p.numel() for p in policy._models[0].parameters())
    # Now, not then: what selective recomputation lets go has no memory any more.
    return sum(t.untyped_storage().nbytes() for t in kept.values()), part.tokens.shape[1], numbers
