"""The balance of a mixture's routers on Megatron, against transformers with the loss written out."""

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Optimizer, Parallel
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.testing.gradients import gradients_of
from services.learner.interface.policy import TokenScores
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model, stored, tiny_model

COEFFICIENT = 0.3
CASES = [
    (1, Parallel(), "none"),
    (1, Parallel(), "full"),
    (2, Parallel(expert=2), "none"),
    (2, Parallel(pipeline=2), "none"),
]


class Nothing:
    """No loss but what the policy adds itself."""

    names: tuple[str, ...] = ()

    def __call__(self, scored: TokenScores) -> tuple[torch.Tensor, torch.Tensor]:
        return (scored.current * 0).sum(), scored.current.new_zeros(0, dtype=torch.float64)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3_moe")


def _written_out() -> dict[str, torch.Tensor]:
    """From the papers, one sequence at a time, not from penstock.objectives."""
    model, batch = tiny_model("qwen3_moe"), random_batch(1)
    said: list[torch.Tensor] = []
    for name, module in model.named_modules():
        if name.endswith("mlp.gate"):
            module.register_forward_hook(lambda m, given, output: said.append(output[0]))
    sizes = batch.lengths.tolist()
    total, counted = torch.zeros(()), 0
    for tokens, mask in zip(batch.tokens.long().split(sizes), batch.mask.split(sizes), strict=True):
        if not mask.any():
            continue
        said.clear()
        model(tokens[None, :-1])
        counted += 1
        for logits in said:
            chances, t, experts = logits.softmax(-1), len(logits), logits.shape[1]
            chosen = torch.zeros(experts)
            for row in chances:
                chosen[row.topk(2).indices] += 1 / (2 * t)
            total = total + experts * (chosen * chances.mean(0)).sum() / len(said)
    (COEFFICIENT * total / counted).backward()
    return stored((n, p.grad) for n, p in model.named_parameters() if p.grad is not None)


def _gradients(model_dir: Path, parallel: Parallel, recompute: str, coefficient: float) -> Any:
    policy = MegatronPolicy.create(
        spec_of(
            model_dir,
            parallel,
            Optimizer(clip_gradient=0.0, learning_rate=1e-9),
            micro_batch_tokens=80,
            recompute=recompute,
            seed=1,
            shard_optimizer=False,
            router_coefficient=coefficient,
        )
    )
    policy.logprobs(random_batch(1))
    policy.train_step(random_batch(1), Nothing())
    return gradients_of(policy)


@pytest.mark.parametrize(("ranks", "parallel", "recompute"), CASES)
def test_the_gradient_is_that_of_the_balance_of_every_sequence(
    ranks: int, parallel: Parallel, recompute: str, model_dir: Path
) -> None:
    expected = _written_out()
    found = run_ranks(ranks, _gradients, model_dir, parallel, recompute, COEFFICIENT)[0]
    routers = [name for name in expected if name.endswith("mlp.gate.weight")]
    assert routers and all(float(expected[name].abs().max()) > 1e-4 for name in routers)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].float(), gradient, rtol=1e-3, atol=2e-6, msg=name)


def test_without_a_coefficient_there_is_no_such_loss(model_dir: Path) -> None:
    found = run_ranks(1, _gradients, model_dir, Parallel(), "none", 0.0)[0]
    assert all(float(gradient.abs().max()) == 0.0 for gradient in found.values())
