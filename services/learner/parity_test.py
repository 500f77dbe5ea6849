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

from services.learner.batch import Batch, broadcast
from services.learner.megatron_policy import MegatronPolicy
from services.learner.models_testing import random_batch, save_tiny_model, tiny_model
from services.learner.ranks_testing import run_ranks
from services.learner.settings import (
    BatchSettings,
    LossSettings,
    OptimizerSettings,
    ParallelSettings,
    PrecisionSettings,
)
from services.learner.trainer import Trainer

SEEDS = (1, 2)
OPTIMIZER = dict(learning_rate=1e-2, weight_decay=0.1, beta2=0.95, epsilon=1e-5, clip_norm=0.5)
GRPO = LossSettings(
    policy_loss="ppo_clip",
    correction="tis",
    normalisation="token",
    kl_coefficient=0.1,
    entropy_coefficient=0.05,
    temperature=0.8,
)
GSPO = LossSettings(policy_loss="gspo", correction="mis_sequence", normalisation="sequence", proximal="recompute")
SFT = LossSettings(algorithm="sft")


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


def _logprobs(model: Any, batch: Batch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """[T] log-prob and entropy of every token from full logits, one sequence at a time; 0 at first tokens."""
    logprobs, entropies = [], []
    for tokens in batch.tokens.long().split(batch.lengths.tolist()):
        logp = torch.log_softmax(model(tokens[None, :-1]).logits[0].float() / temperature, -1)
        logprobs += [logp.new_zeros(1), logp.gather(1, tokens[1:, None])[:, 0]]
        entropies += [logp.new_zeros(1), -(logp.exp() * logp).sum(-1)]
    return torch.cat(logprobs), torch.cat(entropies)


def _reference_loss(model: Any, initial: Any, batch: Batch, settings: LossSettings) -> torch.Tensor:
    """Written out from algorithms.md, not from penstock.objectives."""
    c, entropy = _logprobs(model, batch, settings.temperature)
    m, a, g = batch.mask, batch.advantage, batch.behaviour
    if settings.algorithm == "sft":
        return -(c * m).sum() / m.sum()
    p = c.detach()
    if settings.policy_loss == "gspo":
        total, live = c.new_zeros(()), 0
        for cs, ps, gs, ms, as_ in zip(*(x.split(batch.lengths.tolist()) for x in (c, p, g, m, a)), strict=True):
            if ms.sum() == 0:
                continue
            live += 1
            gate = ((ps - gs) * ms).sum() / ms.sum()
            if 0.5 <= gate.exp() <= 2.0:
                total = total - ((((cs - ps) * ms).sum() / ms.sum()).exp() * as_[ms > 0][0])
        return total / live
    with torch.no_grad():
        r, _ = _logprobs(initial, batch, settings.temperature)
    weight = (p - g).exp().clamp(max=2.0)
    delta = r - c
    kl = (c - g).exp() * (delta.exp() - 1 - delta)
    token = -weight * (c - p).exp() * a + settings.kl_coefficient * kl - settings.entropy_coefficient * entropy
    return (token * m)[m > 0].sum() / m.sum()


@functools.cache
def reference(family: str, tied: bool, settings_name: str) -> list[dict[str, Any]]:
    settings = {"grpo": GRPO, "gspo": GSPO, "sft": SFT}[settings_name]
    model, initial = tiny_model(family, tied), tiny_model(family, tied)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": OPTIMIZER["weight_decay"]}, {"params": others, "weight_decay": 0.0}],
        lr=OPTIMIZER["learning_rate"],
        betas=(0.9, OPTIMIZER["beta2"]),
        eps=OPTIMIZER["epsilon"],
    )
    steps = []
    for seed in SEEDS:
        optimizer.zero_grad()
        loss = _reference_loss(model, initial, random_batch(seed), settings)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_norm"])
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        steps.append({"loss": loss.item(), "norm": norm.item(), "gradients": gradients, "weights": weights})
    return steps


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
    settings = {"grpo": GRPO, "gspo": GSPO, "sft": SFT}[settings_name]
    initial, *steps = run_ranks(layout.world, _train, model_dir, layout, settings)[0]
    original = {name: p.detach() for name, p in tiny_model(family, tied).named_parameters()}
    assert initial["weights"].keys() == original.keys()
    for name, tensor in original.items():
        assert torch.equal(initial["weights"][name], tensor), f"{name} is not bitwise what was loaded"
    for ours, theirs in zip(steps, reference(family, tied, settings_name), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours["norm"] == pytest.approx(theirs["norm"], rel=2e-5)
        for name, tensor in theirs["weights"].items():
            torch.testing.assert_close(ours["weights"][name], tensor, rtol=0, atol=1e-4, msg=name)
    if layout.whole_gradients:
        first = reference(family, tied, settings_name)[0]["gradients"]
        for name, tensor in first.items():
            error = (steps[0]["gradients"][name] - tensor).abs().max() / tensor.abs().max()
            assert error < 2e-5, f"{name}: relative error {error:.1e}"


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


@pytest.mark.parametrize("name", ["one", "cp2"])
def test_sequence_level_losses_see_whole_sequences(name, model_dir):
    _compare(model_dir("qwen3", False), LAYOUTS[name], "qwen3", False, "gspo")


@pytest.mark.parametrize("name", ["one", "dp2"])
def test_supervised_training(name, model_dir):
    _compare(model_dir("qwen3", False), LAYOUTS[name], "qwen3", False, "sft")
