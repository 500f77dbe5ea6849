"""Chunked, vocabulary-sharded log-probabilities against log_softmax over full logits."""

from typing import Any

import pytest
import torch

from services.learner.backends.megatron_core import cpu as megatron_cpu
from services.learner.backends.megatron_core.heads import token_logprobs
from services.learner.testing.forked_ranks import run_ranks

megatron_cpu.install()

TOKENS, HIDDEN, VOCAB, TEMPERATURE = 13, 8, 23, 0.7


def data(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, 1, HIDDEN, generator=g).to(dtype)
    weight = (torch.randn(VOCAB, HIDDEN, generator=g) * 0.3).to(dtype)
    rows = torch.tensor([0, 2, 3, 7, 8, 12])
    return hidden, weight, rows, torch.randint(0, VOCAB, (len(rows), 3), generator=g)


def expected() -> list[torch.Tensor]:
    hidden, weight, rows, target = data()
    hidden.requires_grad_()
    weight.requires_grad_()
    logp = torch.log_softmax(hidden[rows, 0] @ weight.t() / TEMPERATURE, -1)
    picked, entropy = logp.gather(1, target), -(logp.exp() * logp).sum(-1)
    gradients = torch.autograd.grad((picked * picked).sum() + 0.3 * entropy.sum(), (hidden, weight))
    return [picked.detach(), entropy.detach(), *gradients, logp.exp().square().sum(-1).log().detach()]


def sharded(chunk: int) -> Any:
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    hidden, weight, rows, target = data()
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -VOCAB % world))
    local = padded.chunk(world)[rank].clone().requires_grad_()
    hidden.requires_grad_()
    options: dict[str, Any] = dict(sequence_parallel=False, temperature=TEMPERATURE, chunk=chunk)
    group = torch.distributed.group.WORLD
    picked, entropy, collision = token_logprobs(hidden, local, rows, target, group, VOCAB, **options)
    gradients = torch.autograd.grad((picked * picked).sum() + 0.3 * entropy.sum(), (hidden, local))
    nobody = token_logprobs(hidden, local, rows[:0], target[:0], group, VOCAB, **options)
    return [picked.detach(), entropy.detach(), *gradients, collision], [len(x) for x in nobody]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("chunk", [4, 1000])
def test_values_and_gradients(world: int, chunk: int) -> None:
    results = run_ranks(world, sharded, chunk)
    picked, entropy, grad_hidden, grad_weight, collision = expected()
    whole_weight = torch.cat([r[0][3] for r in results])[:VOCAB]
    torch.testing.assert_close(whole_weight, grad_weight)
    for (ours_picked, ours_entropy, ours_hidden, _, ours_collision), empty in results:
        torch.testing.assert_close(ours_collision, collision)
        torch.testing.assert_close(ours_picked, picked)
        torch.testing.assert_close(ours_entropy, entropy)
        torch.testing.assert_close(ours_hidden, grad_hidden)
        assert empty == [0, 0, 0], "a micro-batch may have nothing to train"


def in_bf16() -> torch.Tensor:
    hidden, weight, rows, target = data(torch.bfloat16)
    return token_logprobs(
        hidden,
        weight,
        rows,
        target,
        torch.distributed.group.WORLD,
        VOCAB,
        sequence_parallel=False,
        temperature=1.0,
        chunk=4,
    )[0]


def test_logits_of_a_bf16_model_are_not_rounded() -> None:
    hidden, weight, rows, target = data(torch.bfloat16)
    exact = torch.log_softmax(hidden[rows, 0].float() @ weight.float().t(), -1).gather(1, target)
    torch.testing.assert_close(run_ranks(1, in_bf16)[0], exact)
    rounded = torch.log_softmax((hidden[rows, 0] @ weight.t()).float(), -1).gather(1, target)
    assert (rounded - exact).abs().max() > 1e-3, "or this test would tell nothing"
