"""Samples that cannot change the weights are not trained, and the weights are those of training them too."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Optimizer, Parallel
from services.learner.algorithms.live import all_of_them
from services.learner.algorithms.policy_gradient.trainer import PolicyGradientTrainer
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.packing.building import MicroBatch
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.interface.batch import Batch, broadcast
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

BACKENDS: dict[str, Any] = {"megatron": MegatronPolicy, "transformers": TransformersPolicy}
LAYOUTS = {
    "megatron": (1, Parallel()),
    "megatron, 2 data ranks": (2, Parallel()),
    "megatron, 2 stages": (2, Parallel(pipeline=2)),
    "megatron, 2 context ranks": (2, Parallel(context=2)),
    "megatron, overlapping": (2, Parallel(overlap=True, overlap_bucket=20_000)),
    "transformers, 2 ranks": (2, Parallel()),
}
RECIPES = {
    "token": recipe_of(correction="tis"),
    "sequence": recipe_of(loss="gspo", normalisation="sequence", proximal="recompute"),
    "prompt": recipe_of(normalisation="prompt", mini_batches=2),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def _batch(step: int) -> Batch:
    """Of the first two, every other group and some samples more are dead; of the third all."""
    batch = random_batch(step)
    group = batch.group_of_sequence
    dead = (group % 2 == step % 2) | (torch.arange(batch.sequences) % 4 == 0)
    if step == 3:
        dead[:] = True
    return dataclasses.replace(batch, signal=batch.signal * ~dead[batch.sequence_of_token])


def _steps(model_dir: Path, backend: str, parallel: Parallel, method: str, spares: bool) -> Any:
    """Of four steps the metrics; the weights in the end; and which tokens had a backward pass."""
    recipe, trained = RECIPES[method], list[int]()
    policy = BACKENDS[backend].create(
        spec_of(
            model_dir, parallel, Optimizer(learning_rate=3e-3, weight_decay=0.1, epsilon=1e-5), micro_batch_tokens=80
        )
    )
    run = policy._run

    def noted(batch: Batch, parts: list[MicroBatch], loss: Any, temperature: float, training: bool) -> Any:
        if training:
            trained.extend(i for part in parts for i in part.index.tolist())
        return run(batch, parts, loss, temperature, training)

    policy._run = noted
    trainer = make_trainer(recipe, policy) if spares else PolicyGradientTrainer(recipe, policy, all_of_them(recipe))
    metrics = [trainer.step(broadcast(_batch(step), torch.device("cpu"))).metrics for step in (1, 2, 3, 4)]
    return metrics, dict(policy.export()), len(trained)


def check_equal(model_dir: Path, layout: str, method: str) -> None:
    ranks, parallel = LAYOUTS[layout]
    backend = layout.partition(",")[0]
    spared = run_ranks(ranks, _steps, model_dir, backend, parallel, method, True)
    in_full = run_ranks(ranks, _steps, model_dir, backend, parallel, method, False)
    assert sum(s[2] for s in spared) < 0.7 * sum(f[2] for f in in_full), "what is dead has no backward pass"
    (ours, weights, _), (theirs, expected, _) = spared[0], in_full[0]
    of_packing = {"micro_batches", "packing_waste", "packing_imbalance", "rl.tokens.computed"}
    of_the_dead = {"rl.tokens.dead", "rl.groups.dead"}
    for a, b in zip(ours, theirs, strict=True):
        assert a["rl.tokens.dead"] > 0 == b["rl.tokens.dead"] == b["rl.groups.dead"]
        for name in b.keys() - of_packing - of_the_dead:
            assert a[name] == pytest.approx(b[name], rel=2e-4, abs=2e-5), name
    assert [m["rl.groups.dead"] for m in ours][2] == 1.0 and ours[2]["grad_norm"] == 0.0
    assert ours[2]["rl.tokens.dead"] == ours[2]["rl.tokens.given"]
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_weights_are_those_of_training_the_dead_too(layout: str, model_dir: Path) -> None:
    """Over four steps with moments and weight decay, one of which has no live sample and is a step all the same; and
    every other metric is what it was."""
    check_equal(model_dir, layout, "token")


@pytest.mark.parametrize("method", ["sequence", "prompt"])
def test_they_count_in_every_normaliser(method: str, model_dir: Path) -> None:
    check_equal(model_dir, "megatron", method)
