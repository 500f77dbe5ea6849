"""The divergence over a teacher's likeliest tokens is a lower bound of the whole one, and equals it with all tokens."""

import pytest
import torch

from penstock.objectives.losses import distillation
from penstock.objectives.losses.distillation import Kind, top_divergence


def distributions(seed: int, n: int = 5, vocabulary: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    policy, teacher = (2 * torch.randn(n, vocabulary, generator=made, dtype=torch.float64) for _ in range(2))
    return policy.requires_grad_(), torch.log_softmax(teacher, -1)


def whole(policy: torch.Tensor, teacher: torch.Tensor, kind: Kind) -> torch.Tensor:
    a, b = (policy, teacher) if kind == "reverse" else (teacher, policy)
    return (a.exp() * (a - b)).sum(-1)


@pytest.mark.parametrize("kind", ["reverse", "forward"])
def test_with_all_tokens_but_one_it_is_the_whole_divergence_and_its_gradient(kind: Kind) -> None:
    logits, teacher = distributions(0)
    policy = torch.log_softmax(logits, -1)
    value = top_divergence(policy[:, :-1], teacher[:, :-1], kind)
    torch.testing.assert_close(value, whole(policy, teacher, kind))
    (got,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
    (true,) = torch.autograd.grad(whole(policy, teacher, kind).sum(), logits)
    torch.testing.assert_close(got, true)


@pytest.mark.parametrize("kind", ["reverse", "forward"])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_it_is_never_negative_and_never_more_than_the_whole(kind: Kind, k: int) -> None:
    for seed in range(20):
        logits, teacher = distributions(seed)
        policy = torch.log_softmax(logits, -1)
        order = teacher.argsort(-1, descending=True)[:, :k]
        value = top_divergence(policy.gather(-1, order), teacher.gather(-1, order), kind)
        assert (value >= -1e-12).all() and (value <= whole(policy, teacher, kind) + 1e-12).all()


def test_by_hand() -> None:
    """q = (.5, .3, rest .2), p = (.6, .3, rest .1)."""
    q, p = torch.tensor([[0.5, 0.3]], dtype=torch.float64), torch.tensor([[0.6, 0.3]], dtype=torch.float64)
    reverse = 0.5 * torch.log(torch.tensor(0.5 / 0.6)) + 0.2 * torch.log(torch.tensor(0.2 / 0.1))
    assert top_divergence(q.log(), p.log(), "reverse").item() == pytest.approx(reverse.item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["reverse", "forward"])
def test_a_teacher_that_is_certain_keeps_everything_finite(kind: Kind) -> None:
    policy = torch.tensor([[-1e-9, -40.0]], requires_grad=True)
    value = top_divergence(policy, torch.tensor([[0.0, -60.0]]), kind)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(policy.grad).all()
    assert distillation.LEAST > 0
