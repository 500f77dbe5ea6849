"""Which samples of a batch can change the weights at all.

    coefficient of every trained token 0   ─►  dead: scored for what is said of the step, but no backward pass
    anything that could reach one of them  ─►  live: trained

What makes a token live is its loss's business. A policy loss that is declared to vanish with the advantage
(`LossChoice.by_advantage`) reaches no token whose advantage is 0; the terms beside it reach every token:

    the policy loss, by_advantage     tokens whose advantage is not 0 (corrections and clips only multiply it)
    any other, a plugin's too         all
    KL in the loss, entropy           all; KL in the reward is in the advantage by then
    a mixture's balance               all

Dead samples count in every normaliser, so the weights after the step are those of training them too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from penstock.recipes import Recipe
from penstock.recipes.choices import LOSSES
from services.learner.interface.batch import Batch

Live = Callable[[Batch], Tensor]
"""bool [N] of a batch: which samples are live."""


def all_of_them(recipe: Recipe) -> Live:
    """Of a loss that says nothing of where it vanishes."""
    return lambda batch: torch.ones(batch.sequences, dtype=torch.bool, device=batch.mask.device)


def by_advantage(recipe: Recipe) -> Live:
    """Of a policy gradient, whose signal is the advantage."""
    loss = recipe.algorithm.loss
    vanishes = loss.name in LOSSES and LOSSES[loss.name].by_advantage
    pulled = loss.kl.coefficient > 0 and loss.kl.place == "loss"
    if not vanishes or pulled or loss.entropy_coefficient or recipe.algorithm.router_coefficient:
        return all_of_them(recipe)
    return _with_a_signal


def _with_a_signal(batch: Batch) -> Tensor:
    reached = ((batch.mask > 0) & (batch.signal != 0)).to(torch.int32)
    found = torch.zeros(batch.sequences, dtype=torch.int32, device=batch.mask.device)
    return found.index_add(0, batch.sequence_of_token, reached) > 0


def said(batch: Batch, live: Tensor) -> tuple[float, float]:
    """Tokens that dead samples put into the model, and the share of groups that are dead."""
    groups = batch.group_of_sequence
    alive = torch.zeros(int(groups.max()) + 1, dtype=torch.int32, device=groups.device)
    alive = alive.index_add(0, groups, live.to(torch.int32)) > 0
    return float((batch.lengths - 1)[~live].sum()), 1.0 - float(alive.to(torch.float64).mean())
