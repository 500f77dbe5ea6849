"""Recomputing activations changes memory, and not the result: of whole layers not one bit, of parts a rounding."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from services.learner.algorithms.trainer import Trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.testing.megatron_activations import kept_bytes
from services.learner.interface.settings import (
    BatchSettings,
    LoraSettings,
    LossSettings,
    OptimizerSettings,
    ParallelSettings,
    PrecisionSettings,
)
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.tiny_models import random_batch, save_tiny_model

LAYOUTS = {
    "one": (1, ParallelSettings()),
    "tp2-sp": (2, ParallelSettings(tensor=2, sequence=True)),
    "pp2": (2, ParallelSettings(pipeline=2)),
    "pp2-interleaved": (2, ParallelSettings(pipeline=2, virtual=2)),
    "cp2": (2, ParallelSettings(context=2)),
    "cp2-ulysses": (2, ParallelSettings(context=2, context_attention="ulysses")),
    "dp2-overlap": (2, ParallelSettings(overlap=20_000)),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def _make(
    model_dir: Path,
    parallel: ParallelSettings,
    recompute: str,
    distributed: bool = True,
    lora: LoraSettings | None = None,
) -> MegatronPolicy:
    batching = BatchSettings(tokens_per_micro_batch=256, recompute=recompute)  # type: ignore[arg-type]
    settings = OptimizerSettings(learning_rate=1e-2, distributed=distributed)
    return MegatronPolicy.create(model_dir, parallel, settings, PrecisionSettings(), batching, seed=1, lora=lora)


def _train(model_dir: Path, parallel: ParallelSettings, recompute: str) -> Any:
    policy = _make(model_dir, parallel, recompute)
    trainer = Trainer(LossSettings(), policy)
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (1, 2)]
    return metrics, dict(policy.export())


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_weights_come_out_bit_by_bit(name, model_dir):
    world, parallel = LAYOUTS[name]
    metrics, weights = run_ranks(world, _train, model_dir, parallel, "none")[0]
    again, recomputed = run_ranks(world, _train, model_dir, parallel, "full")[0]
    assert again == metrics
    assert all(torch.equal(recomputed[key], weights[key]) for key in weights)


def _gradients(model_dir: Path, parallel: ParallelSettings, recompute: str) -> Any:
    policy = _make(model_dir, parallel, recompute, distributed=False)
    metrics = Trainer(LossSettings(), policy).step(random_batch(1)).metrics
    return metrics["loss"], dict(policy.export_gradients())


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_selective_recomputation_gives_the_same_gradients(name, family, tmp_path, model_dir):
    """To some millionths: where a norm is several operations, as on a CPU, their gradients add up in another order."""
    world, parallel = LAYOUTS[name]
    if family != "qwen3":
        model_dir = save_tiny_model(tmp_path, family)
        parallel = dataclasses.replace(parallel, expert=2 if parallel.tensor > 1 else 1)
    loss, gradients = run_ranks(world, _gradients, model_dir, parallel, "none")[0]
    again, recomputed = run_ranks(world, _gradients, model_dir, parallel, "selective")[0]
    assert again == loss
    for key, gradient in gradients.items():
        torch.testing.assert_close(recomputed[key], gradient, rtol=0, atol=5e-6 * float(gradient.abs().max()), msg=key)


def _adapted(model_dir: Path, parallel: ParallelSettings, recompute: str) -> Any:
    """After a first step, which moves the adapters off zero: what the second gradient is to each of them."""
    policy = _make(model_dir, parallel, recompute, distributed=False, lora=LoraSettings(rank=4))
    trainer = Trainer(LossSettings(), policy)
    trainer.step(random_batch(1))
    trainer.step(random_batch(2))
    return {n: p.main_grad.clone() for n, p in policy._models[0].named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["one", "tp2-sp"])
def test_adapters_see_what_was_let_go(name, model_dir):
    world, parallel = LAYOUTS[name]
    gradients = run_ranks(world, _adapted, model_dir, parallel, "none")[0]
    recomputed = run_ranks(world, _adapted, model_dir, parallel, "selective")[0]
    for key, gradient in gradients.items():
        torch.testing.assert_close(recomputed[key], gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()), msg=key)


def test_selective_recomputation_keeps_less(model_dir):
    everything = run_ranks(1, kept_bytes, model_dir, ParallelSettings(), "none", [200])[0][0]
    less = run_ranks(1, kept_bytes, model_dir, ParallelSettings(), "selective", [200])[0][0]
    assert less < 0.72 * everything


def test_it_keeps_a_small_part(model_dir):
    everything, tokens = run_ranks(1, kept_bytes, model_dir, ParallelSettings(), "none", [200])[0][:2]
    inputs, _ = run_ranks(1, kept_bytes, model_dir, ParallelSettings(), "full", [200])[0][:2]
    assert inputs < 0.1 * everything
    assert inputs >= 4 * 4 * 64 * tokens, "each of four layers keeps its input"
