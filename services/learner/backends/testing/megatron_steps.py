"""Two steps of a Megatron policy under a layout, compared with transformers in one process (`testing.one_process`)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from penstock.recipes import Recipe
from penstock.recipes.sections import Optimizer, Parallel
from services.learner.algorithms.table import algorithm_of, make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.testing.gradients import gradients_of
from services.learner.interface.batch import broadcast
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.one_process import OPTIMIZER, SEEDS, SETTINGS, compare
from services.learner.testing.recipes import spec_of
from services.learner.testing.tiny_models import random_batch


@dataclass(frozen=True)
class Case:
    """How many ranks, how the model is spread over them, and whether they share the optimizer out."""

    world: int
    parallel: Parallel = field(default_factory=Parallel)
    distributed: bool = True

    @property
    def whole_gradients(self) -> bool:
        replicas = self.world // (self.parallel.tensor * self.parallel.pipeline)
        return not self.distributed or replicas == 1


def _train(model_dir: Path, case: Case, recipe: Recipe, optimizer: Any) -> list[dict[str, Any]]:
    policy = MegatronPolicy.create(
        spec_of(
            model_dir,
            case.parallel,
            Optimizer(name=optimizer, **OPTIMIZER),
            shard_optimizer=case.distributed,
            micro_batch_tokens=80,
            head_chunk=11,
            seed=1,
            keep_reference=recipe.compares_with_reference,
        )
    )
    trainer = make_trainer(recipe, policy)
    steps = [{"weights": dict(policy.export()), "logprobs": policy.logprobs(random_batch(SEEDS[0]))}]
    for seed in SEEDS:
        rank = torch.distributed.get_rank()
        kind = algorithm_of(recipe).signal
        batch = broadcast(random_batch(seed, kind) if rank == 0 else None, policy.layout.device)
        metrics = trainer.step(batch).metrics
        gradients = gradients_of(policy) if case.whole_gradients else None
        steps.append(
            {
                "loss": metrics["loss"],
                "norm": metrics["grad_norm"],
                "gradients": gradients,
                "weights": dict(policy.export()),
            }
        )
    return steps


def check_case(
    model_dir: Path, case: Case, family: str, tied: bool, settings_name: str, optimizer: str = "adamw"
) -> None:
    """Trains the tiny model of `family` that `model_dir` holds, and compares."""
    results = run_ranks(case.world, _train, model_dir, case, SETTINGS[settings_name], optimizer)[0]
    compare(results, family, tied, settings_name, optimizer)
