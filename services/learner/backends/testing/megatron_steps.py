"""Two steps of a Megatron policy under a layout, compared with transformers in one process (`parity_testing`)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from services.learner.algorithms.trainer import Trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.interface.batch import broadcast
from services.learner.interface.settings import (
    BatchSettings,
    LossSettings,
    OptimizerSettings,
    ParallelSettings,
    PrecisionSettings,
)
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.one_process import OPTIMIZER, SEEDS, SETTINGS, compare
from services.learner.testing.tiny_models import random_batch


@dataclass(frozen=True)
class Layout:
    world: int
    parallel: ParallelSettings = field(default_factory=ParallelSettings)
    distributed: bool = True

    @property
    def whole_gradients(self) -> bool:
        replicas = self.world // (self.parallel.tensor * self.parallel.pipeline)
        return not self.distributed or replicas == 1


def _train(model_dir: Path, layout: Layout, settings: LossSettings, optimizer: str) -> list[dict[str, Any]]:
    policy = MegatronPolicy.create(
        model_dir,
        layout.parallel,
        OptimizerSettings(name=optimizer, distributed=layout.distributed, **OPTIMIZER),
        PrecisionSettings(),
        BatchSettings(tokens_per_micro_batch=80, head_chunk=11),
        seed=1,
        keep_reference=settings.kl_coefficient > 0,
    )
    trainer = Trainer(settings, policy)
    steps = [{"weights": dict(policy.export()), "logprobs": policy.logprobs(random_batch(SEEDS[0]))}]
    for seed in SEEDS:
        rank = torch.distributed.get_rank()
        batch = broadcast(random_batch(seed) if rank == 0 else None, policy.layout.device)
        metrics = trainer.step(batch).metrics
        gradients = dict(policy.export_gradients()) if layout.whole_gradients else None
        steps.append(
            {
                "loss": metrics["loss"],
                "norm": metrics["grad_norm"],
                "gradients": gradients,
                "weights": dict(policy.export()),
            }
        )
    return steps


def check(
    model_dir: Path, layout: Layout, family: str, tied: bool, settings_name: str, optimizer: str = "adamw"
) -> None:
    """Trains the tiny model of `family` that `model_dir` holds, and compares."""
    results = run_ranks(layout.world, _train, model_dir, layout, SETTINGS[settings_name], optimizer)[0]
    compare(results, family, tied, settings_name, optimizer)
