"""Muon: a hidden matrix is stepped by its momentum made orthogonal, so that no direction of it learns much faster than
another (Jordan 2024; Liu et al. 2025, arXiv:2502.16982, for the rate).

    m ← μ m + (1 − μ) g        w ← w − η λ w − η s · orthogonal(μ m + (1 − μ) g)

The momentum is element-wise and stays cut as the weight is. The orthogonal matrix is one of the *whole* matrix, and a
matrix is what Hugging Face stores as one: query, key and value each by themselves, though Megatron fuses them. So all
layouts and backends take the same steps. Every rank that has a part of a matrix gathers it and computes the same
(torch.optim.Muon, in bf16), then keeps its own part.

Embeddings, the output layer, a score, norms and biases are AdamW's.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from penstock.recipes.sections import Optimizer
from services.learner.interface.policy_spec import PolicySpec

MOMENTUM = "momentum"


class Matrices(Protocol):
    """How the parameters that Muon steps are cut over ranks."""

    def whole(self, name: str, own: Tensor) -> Sequence[Tensor]:
        """This rank's part of something shaped as parameter `name` -> its Hugging Face matrices; a collective."""
        ...

    def own(self, name: str, whole: Sequence[Tensor]) -> Tensor:
        """The inverse, without a message."""
        ...


class Muon:
    """Steps this rank's parts of hidden matrices; their momentum by name is all that it remembers."""

    def __init__(self, settings: Optimizer, matrices: Matrices) -> None:
        self._settings, self._matrices = settings, matrices
        self._momentum: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, name: str, weight: Tensor, gradient: Tensor, rate: float) -> None:
        """weight: this rank's part, fp32, changed in place. A collective of the ranks that have the others."""
        mu = self._settings.momentum
        momentum = self._momentum.setdefault(name, torch.zeros_like(gradient))
        momentum.lerp_(gradient, 1 - mu)
        changes = [self._change(matrix, rate) for matrix in self._matrices.whole(name, gradient.lerp(momentum, mu))]
        weight.mul_(1 - rate * self._settings.weight_decay).add_(self._matrices.own(name, changes))

    def _change(self, matrix: Tensor, rate: float) -> Tensor:
        """What torch's Muon adds to a weight whose momentum is `matrix`."""
        change = torch.nn.Parameter(torch.zeros_like(matrix))
        change.grad = matrix
        alone: dict[str, Any] = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
        torch.optim.Muon([change], lr=rate, adjust_lr_fn=self._settings.rate_adjustment, **alone).step()
        return change.detach()

    def state(self, name: str) -> dict[str, Tensor]:
        """Live memory; nothing before the first step."""
        return {MOMENTUM: self._momentum[name]} if name in self._momentum else {}

    def load(self, name: str, momentum: Tensor | None) -> None:
        """None: before the first step."""
        self._momentum.pop(name, None)
        if momentum is not None:
            self._momentum[name] = momentum


def check_muon(spec: PolicySpec) -> None:
    """Raises ValueError for what Muon does not train."""
    if spec.learner.optimizer.name != "muon":
        return
    if spec.learner.lora is not None:
        raise ValueError(
            "optimizer.name = muon makes the step of a whole matrix orthogonal, and lora trains two factors of one; "
            "use adamw, or no lora"
        )
    if spec.hosts_optimizer:
        raise ValueError(
            "learner.offload: the state of adamw alone can be kept on the host; use optimizer.name = adamw"
        )


def identity(settings: Optimizer) -> dict[str, str]:
    """What a checkpoint's model identity says of the optimizer: the state of one is not another's."""
    return {} if settings.name == "adamw" else {"optimizer": settings.name}
