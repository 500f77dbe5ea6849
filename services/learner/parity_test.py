"""Every parallel layout against Hugging Face transformers in one process, sequence by sequence.

Two optimizer steps of the whole policy-gradient objective (clipped ratio, truncated importance weights, KL to the
initial model, entropy bonus, temperature) over packed batches: loss, clipped gradients, gradient norm and weights must
agree.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from services.learner.batch import broadcast
from services.learner.megatron_policy import MegatronPolicy
from services.learner.models_testing import random_batch, save_tiny_model
from services.learner.parity_testing import OPTIMIZER, SEEDS, SETTINGS, compare
from services.learner.ranks_testing import run_ranks
from services.learner.settings import (
    BatchSettings,
    LossSettings,
    OptimizerSettings,
    ParallelSettings,
    PrecisionSettings,
)
from services.learner.trainer import Trainer


@dataclass(frozen=True)
class Layout:
    world: int
    parallel: ParallelSettings = field(default_factory=ParallelSettings)
    distributed: bool = True

    @property
    def whole_gradients(self) -> bool:
        replicas = self.world // (self.parallel.tensor * self.parallel.pipeline)
        return not self.distributed or replicas == 1


LAYOUTS = {
    "one": Layout(1),
    "tp2": Layout(2, ParallelSettings(tensor=2)),
    "tp2-sp": Layout(2, ParallelSettings(tensor=2, sequence=True)),
    "pp2": Layout(2, ParallelSettings(pipeline=2)),
    "pp2-interleaved": Layout(2, ParallelSettings(pipeline=2, virtual=2)),
    "tp2-pp2-interleaved": Layout(4, ParallelSettings(tensor=2, pipeline=2, virtual=2)),
    "cp2": Layout(2, ParallelSettings(context=2)),
    "cp2-replicated-optimizer": Layout(2, ParallelSettings(context=2), distributed=False),
    "dp2": Layout(2),
    "dp2-replicated-optimizer": Layout(2, distributed=False),
    "tp2-pp2": Layout(4, ParallelSettings(tensor=2, pipeline=2)),
    "tp2-sp-cp2": Layout(4, ParallelSettings(tensor=2, context=2, sequence=True), distributed=False),
    "pp2-dp2": Layout(4, ParallelSettings(pipeline=2)),
    "tp4-sp": Layout(4, ParallelSettings(tensor=4, sequence=True)),  # fewer KV heads than tensor ranks
}


def _train(model_dir: Path, layout: Layout, settings: LossSettings) -> list[dict[str, Any]]:
    policy = MegatronPolicy.create(
        model_dir,
        layout.parallel,
        OptimizerSettings(distributed=layout.distributed, **OPTIMIZER),
        PrecisionSettings(),
        BatchSettings(tokens_per_micro_batch=80, head_chunk=11),
        seed=1,
        keep_reference=settings.kl_coefficient > 0,
    )
    trainer = Trainer(settings, policy)
    steps = [{"weights": dict(policy.export())}]
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


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    @functools.cache
    def make(family: str, tied: bool) -> Path:
        return save_tiny_model(tmp_path_factory.mktemp("model"), family, tied)

    return make


def _compare(model_dir: Path, layout: Layout, family: str, tied: bool, settings_name: str) -> None:
    results = run_ranks(layout.world, _train, model_dir, layout, SETTINGS[settings_name])[0]
    compare(results, family, tied, settings_name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_trains_as_transformers_does(name, model_dir):
    _compare(model_dir("qwen3", False), LAYOUTS[name], "qwen3", False, "grpo")


@pytest.mark.parametrize(
    ("family", "tied", "name"),
    [
        ("qwen2", True, "tp2-sp"),
        ("llama", False, "tp2"),
        ("qwen3", True, "pp2"),
        ("qwen3", True, "pp2-interleaved"),
        ("qwen2", False, "one"),
    ],
)
def test_every_architecture_trains_as_transformers_does(family, tied, name, model_dir):
    _compare(model_dir(family, tied), LAYOUTS[name], family, tied, "grpo")


MIXTURES = {
    "one": Layout(1),
    "dp2": Layout(2),
    "ep2": Layout(2, ParallelSettings(expert=2), distributed=False),
    "ep4": Layout(4, ParallelSettings(expert=4), distributed=False),
    "ep2-dp4": Layout(4, ParallelSettings(expert=2)),
    "ep2-dp4-replicated-optimizer": Layout(4, ParallelSettings(expert=2), distributed=False),
    "cp2-ep2": Layout(2, ParallelSettings(context=2, expert=2), distributed=False),
    "tp2-sp-ep2": Layout(2, ParallelSettings(tensor=2, sequence=True, expert=2)),
    "tp2-sp-ep4": Layout(4, ParallelSettings(tensor=2, sequence=True, expert=4), distributed=False),
    "tp2-sp-ep2-dp2": Layout(4, ParallelSettings(tensor=2, sequence=True, expert=2), distributed=False),
    "pp2-ep2": Layout(4, ParallelSettings(pipeline=2, expert=2), distributed=False),
    "pp2-interleaved-ep2": Layout(4, ParallelSettings(pipeline=2, virtual=2, expert=2)),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_every_layout_of_a_mixture_trains_as_transformers_does(name, model_dir):
    _compare(model_dir("qwen3_moe", False), MIXTURES[name], "qwen3_moe", False, "grpo")


def test_weights_of_experts_need_not_add_up_to_one(model_dir):
    _compare(model_dir("qwen3_moe_raw", True), MIXTURES["ep2"], "qwen3_moe_raw", True, "grpo")


@pytest.mark.parametrize("name", ["one", "cp2"])
def test_sequence_level_losses_see_whole_sequences(name, model_dir):
    _compare(model_dir("qwen3", False), LAYOUTS[name], "qwen3", False, "gspo")


@pytest.mark.parametrize("name", ["one", "dp2"])
def test_supervised_training(name, model_dir):
    _compare(model_dir("qwen3", False), LAYOUTS[name], "qwen3", False, "sft")
