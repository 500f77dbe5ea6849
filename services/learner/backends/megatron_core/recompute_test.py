"""Recomputing activations changes memory, and not the result: of whole layers not one bit, of parts a rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Lora, Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.testing.gradients import gradients_of
from services.learner.backends.testing.megatron_activations import kept_bytes
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

LAYOUTS = {
    "one": (1, Parallel()),
    "tp2-sp": (2, Parallel(tensor=2, sequence_parallel=True)),
    "pp2": (2, Parallel(pipeline=2)),
    "pp2-interleaved": (2, Parallel(pipeline=2, virtual_stages=2)),
    "cp2": (2, Parallel(context=2)),
    "cp2-ulysses": (2, Parallel(context=2, context_attention="ulysses")),
    "dp2-overlap": (2, Parallel(overlap=True, overlap_bucket=20_000)),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def _make(
    model_dir: Path,
    parallel: Parallel,
    recompute: str,
    distributed: bool = True,
    lora: Lora | None = None,
) -> MegatronPolicy:
    sizes: dict[str, Any] = dict(micro_batch_tokens=256, recompute=recompute, shard_optimizer=distributed)
    return MegatronPolicy.create(
        spec_of(model_dir, parallel, Optimizer(learning_rate=1e-2), seed=1, lora=lora, **sizes)
    )


def _train(model_dir: Path, parallel: Parallel, recompute: str) -> Any:
    policy = _make(model_dir, parallel, recompute)
    trainer = make_trainer(recipe_of(), policy)
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (1, 2)]
    return metrics, dict(policy.export())


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_weights_come_out_bit_by_bit(name: str, model_dir: Path) -> None:
    world, parallel = LAYOUTS[name]
    metrics, weights = run_ranks(world, _train, model_dir, parallel, "none")[0]
    again, recomputed = run_ranks(world, _train, model_dir, parallel, "full")[0]
    assert again == metrics
    assert all(torch.equal(recomputed[key], weights[key]) for key in weights)


def _gradients(model_dir: Path, parallel: Parallel, recompute: str) -> Any:
    policy = _make(model_dir, parallel, recompute, distributed=False)
    metrics = make_trainer(recipe_of(), policy).step(random_batch(1)).metrics
    return metrics["loss"], gradients_of(policy)


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_selective_recomputation_gives_the_same_gradients(
    name: str, family: str, tmp_path: Path, model_dir: Path
) -> None:
    """To some millionths: where a norm is several operations, as on a CPU, their gradients add up in another order."""
    world, parallel = LAYOUTS[name]
    if family != "qwen3":
        model_dir = save_tiny_model(tmp_path, family)
        parallel = parallel.model_copy(update={"expert": 2 if parallel.tensor > 1 else 1})
    loss, gradients = run_ranks(world, _gradients, model_dir, parallel, "none")[0]
    again, recomputed = run_ranks(world, _gradients, model_dir, parallel, "selective")[0]
    assert again == loss
    for key, gradient in gradients.items():
        torch.testing.assert_close(recomputed[key], gradient, rtol=0, atol=5e-6 * float(gradient.abs().max()), msg=key)


def _adapted(model_dir: Path, parallel: Parallel, recompute: str) -> Any:
    """After a first step, which moves the adapters off zero: what the second gradient is to each of them."""
    policy = _make(model_dir, parallel, recompute, distributed=False, lora=Lora(rank=4))
    trainer = make_trainer(recipe_of(), policy)
    trainer.step(random_batch(1))
    trainer.step(random_batch(2))
    return {n: p.main_grad.clone() for n, p in policy._models[0].named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["one", "tp2-sp"])
def test_adapters_see_what_was_let_go(name: str, model_dir: Path) -> None:
    world, parallel = LAYOUTS[name]
    gradients = run_ranks(world, _adapted, model_dir, parallel, "none")[0]
    recomputed = run_ranks(world, _adapted, model_dir, parallel, "selective")[0]
    for key, gradient in gradients.items():
        torch.testing.assert_close(recomputed[key], gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()), msg=key)


def test_selective_recomputation_keeps_less(model_dir: Path) -> None:
    everything = run_ranks(1, kept_bytes, model_dir, Parallel(), "none", [200])[0][0]
    less = run_ranks(1, kept_bytes, model_dir, Parallel(), "selective", [200])[0][0]
    assert less < 0.72 * everything


def test_it_keeps_a_small_part(model_dir: Path) -> None:
    everything, tokens = run_ranks(1, kept_bytes, model_dir, Parallel(), "none", [200])[0][:2]
    inputs, _ = run_ranks(1, kept_bytes, model_dir, Parallel(), "full", [200])[0][:2]
    assert inputs < 0.1 * everything
    assert inputs >= 4 * 4 * 64 * tokens, "each of four layers keeps its input"
