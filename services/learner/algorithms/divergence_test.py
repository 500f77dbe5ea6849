"""Distillation over a teacher's likeliest tokens: it pulls the policy to them, and every layout gives the same step."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Optimizer, Parallel, Teacher
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.interface.batch import Batch
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

LAYOUTS = {
    "tensor 2 x context 2": (4, Parallel(tensor=2, context=2)),
    "pipeline 2, data 2": (4, Parallel(pipeline=2)),
}
TOP = 3


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def judged() -> Batch:
    """Every trained token with three alternatives, of which the teacher is fairly sure of the first."""
    batch = random_batch(3)
    made = torch.Generator().manual_seed(1)
    others = torch.randint(0, 40, (len(batch.tokens), 1), generator=made) + torch.tensor([[0, 1, 2]])
    logprobs = torch.log(torch.tensor([0.7, 0.15, 0.05])).expand(len(batch.tokens), TOP)
    return dataclasses.replace(
        batch, alternatives=others.to(torch.int32), alternative_logprobs=logprobs.contiguous().to(torch.float32)
    )


def _distil(model_dir: Path, parallel: Parallel, kind: Any, steps: int) -> Any:
    policy = MegatronPolicy.create(
        spec_of(model_dir, parallel, Optimizer(learning_rate=3e-3, epsilon=1e-5), micro_batch_tokens=80, head_chunk=7)
    )
    recipe = recipe_of(teacher=Teacher(path="-", top=TOP, divergence=kind), algorithm={"advantage": "opd"})
    trainer = make_trainer(recipe, policy)
    return [trainer.step(judged()).metrics["divergence"] for _ in range(steps)], dict(policy.export())


@pytest.mark.parametrize("kind", ["reverse", "forward"])
def test_the_divergence_from_the_teacher_falls(kind: str, model_dir: Path) -> None:
    history, _ = run_ranks(1, _distil, model_dir, Parallel(), kind, 8)[0]
    assert history[0] > 0.5 and history[-1] < 0.95 * history[0] and history == sorted(history, reverse=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_takes_the_same_step(layout: str, model_dir: Path) -> None:
    alone, expected = run_ranks(1, _distil, model_dir, Parallel(), "reverse", 2)[0]
    world, parallel = LAYOUTS[layout]
    history, weights = run_ranks(world, _distil, model_dir, parallel, "reverse", 2)[0]
    assert history == pytest.approx(alone, rel=1e-4)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
