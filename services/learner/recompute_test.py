"""Recomputing activations changes memory, not one bit of the result."""

from pathlib import Path
from typing import Any

import pytest
import torch

from services.learner.activations_testing import kept_bytes
from services.learner.megatron_policy import MegatronPolicy
from services.learner.models_testing import random_batch, save_tiny_model
from services.learner.ranks_testing import run_ranks
from services.learner.settings import (
    BatchSettings,
    LossSettings,
    OptimizerSettings,
    ParallelSettings,
    PrecisionSettings,
)
from services.learner.trainer import Trainer

LAYOUTS = {
    "one": (1, ParallelSettings()),
    "tp2-sp": (2, ParallelSettings(tensor=2, sequence=True)),
    "pp2": (2, ParallelSettings(pipeline=2)),
    "cp2": (2, ParallelSettings(context=2)),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def _train(model_dir: Path, parallel: ParallelSettings, recompute: str) -> Any:
    batching = BatchSettings(tokens_per_micro_batch=256, recompute=recompute)  # type: ignore[arg-type]
    settings = OptimizerSettings(learning_rate=1e-2)
    policy = MegatronPolicy.create(model_dir, parallel, settings, PrecisionSettings(), batching, seed=1)
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


def test_it_keeps_a_small_part(model_dir):
    everything, tokens = run_ranks(1, kept_bytes, model_dir, ParallelSettings(), "none", [200])[0][:2]
    inputs, _ = run_ranks(1, kept_bytes, model_dir, ParallelSettings(), "full", [200])[0][:2]
    assert inputs < 0.1 * everything
    assert inputs >= 4 * 4 * 64 * tokens, "each of four layers keeps its input"
