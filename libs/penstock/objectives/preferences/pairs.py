"""Pairs of answers: how they are made, weighed and trained on, whatever the loss."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from penstock.objectives.inputs import LOG_RATIO_LIMIT
from penstock.objectives.preferences.divergences import reverse_kl


class Pairs(NamedTuple):
    """P pairs. All [P] float64: summed log-probs of the chosen and the rejected answer under the policy (with gradient)
    and the reference, and their numbers of tokens. divergence: see `divergences`."""

    chosen: Tensor
    rejected: Tensor
    chosen_reference: Tensor
    rejected_reference: Tensor
    chosen_length: Tensor
    rejected_length: Tensor
    divergence: Callable[[Tensor], Tensor] = reverse_kl

    @property
    def chosen_gain(self) -> Tensor:
        """c − r of the chosen answers, [P]."""
        return self.chosen - self.chosen_reference

    @property
    def rejected_gain(self) -> Tensor:
        """c − r of the rejected answers, [P]."""
        return self.rejected - self.rejected_reference

    @property
    def delta(self) -> Tensor:
        """Δ [P], by the divergence."""
        return self.divergence(self.chosen_gain) - self.divergence(self.rejected_gain)

    @property
    def average_delta(self) -> Tensor:
        """Δ̄ [P]: as Δ with means over tokens in place of sums."""
        chosen = self.divergence(self.chosen_gain) / self.chosen_length
        return chosen - self.divergence(self.rejected_gain) / self.rejected_length


def rank_pairs(rewards: list[float], pairs: int, min_margin: float) -> list[tuple[int, int]]:
    """(chosen, rejected) members of a group: best with worst, second best with second worst, …, no member twice.

    Ties keep the members' order. A pair must differ by more than `min_margin`, so equal rewards never make one.
    """
    order = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    made = []
    for i in range(min(pairs, len(order) // 2)):
        chosen, rejected = order[i], order[-1 - i]
        if rewards[chosen] - rewards[rejected] > min_margin:
            made.append((chosen, rejected))
    return made


def pair_importance(current: Tensor, behaviour: Tensor, length: Tensor, cap: float) -> Tensor:
    """[P]: how much likelier the policy is to draw a pair's answers now than when they were drawn, at most `cap`.

    min(exp(Σ (c − g) / tokens), cap) over the tokens of both answers, without gradient: the geometric mean, because the
    product over all tokens of two answers is nearly 0 or beyond every cap. It makes the pairs of a stale policy count
    as if the present one had drawn them. current, behaviour (summed log-probs), length: [2P], chosen before rejected.
    """
    drift = (current - behaviour).view(-1, 2).sum(-1) / length.view(-1, 2).sum(-1).clamp(min=1)
    return drift.detach().clamp(max=LOG_RATIO_LIMIT).exp().clamp(max=cap)


def pair_confidence(current: Tensor, collision: Tensor, length: Tensor) -> Tensor:
    """[P]: WPO's weight of a pair, at most 1: how near its answers are to what the policy would say.

    The product over both answers of exp(Σ (c − log Σ p²) / tokens), without gradient: the mean log-prob of an answer's
    tokens against that of tokens the policy draws itself. current, collision (summed over tokens), length: [2P], chosen
    before rejected. Source: "WPO: Enhancing RLHF with Weighted Preference Optimization" (Zhou et al. 2024), eq. 4 with
    sampled alignment.
    """
    near = (current - collision) / length.clamp(min=1)
    return near.view(-1, 2).sum(-1).detach().clamp(max=0).exp()


def answer_weights(losses: Callable[[Tensor], Tensor], current: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of a batch's preference loss with respect to its answers' log-probs.

    losses: [N] summed log-probs -> [P] losses. current: [N] float64.

    Returns (losses [P], weights [N]): Σ weights · current has the gradient of the mean loss.
    """
    leaf = current.detach().clone().requires_grad_()
    values = losses(leaf)
    (weights,) = torch.autograd.grad(values.mean(), leaf)
    return values.detach(), weights
