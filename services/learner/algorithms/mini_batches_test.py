"""A batch's numbers do not depend on how it was cut into optimizer steps."""

from pathlib import Path
from typing import Any

import pytest

from penstock.recipes.sections import Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import save_tiny_model

LENGTHS = (20, 12, 2, 3)
"""Groups of two answers each: 30 trained tokens, and 3."""


def _step(folder: Path, method: str, normalisation: str, mini_batches: int) -> Any:
    policy = MegatronPolicy.create(
        spec_of(folder, Parallel(), Optimizer(learning_rate=1e-12, clip_gradient=0.0), micro_batch_tokens=24, seed=0)
    )
    recipe = recipe_of("sft" if method == "sft" else "grpo", normalisation=normalisation, mini_batches=mini_batches)
    samples = [
        TrainingSample(
            [5 + (7 * i + t) % 40 for t in range(length)],
            [0] + [1] * (length - 1),
            [-3.0] * length,
            0.0 if method == "sft" else 1.0 - i,
            i // 2,
        )
        for i, length in enumerate(LENGTHS)
    ]
    signal: Any = "none" if method == "sft" else "advantage"
    return make_trainer(recipe, policy).step(Batch.from_samples(samples, signal)).metrics


@pytest.mark.parametrize("normalisation", ["token", "sequence", "prompt", "constant"])
@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_metrics_do_not_depend_on_the_cut(method: str, normalisation: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, "qwen3")
    whole, cut = (run_ranks(1, _step, folder, method, normalisation, n)[0] for n in (1, 2))
    assert cut["optimizer_steps"] == 2 * whole["optimizer_steps"]
    of_steps = {"grad_norm", "learning_rate", "optimizer_steps", "micro_batches", "packing_waste", "packing_imbalance"}
    for name in whole.keys() - of_steps:
        assert cut[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-6), name
