"""Preference losses: functions of how likely whole answers are under the policy and under a reference.

With c and r the log-probs of an answer's tokens under policy and reference, summed over the answer, and
Δ = (c_w − r_w) − (c_l − r_l) for a chosen (w) and a rejected (l) answer. Losses are per pair and are averaged over
pairs. `kto` alone takes single answers.

Each is a function of a few numbers per answer, so its gradient is a weight per answer: the learner evaluates the loss
on log-probs of a forward pass, and trains Σ weight · log-prob over packed micro-batches, however pairs were cut
(`answer_weights`). That is the exact gradient, and pairs need not share a micro-batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from penstock.objectives.inputs import LOG_RATIO_LIMIT
from penstock.objectives.registry import preference_losses


class Pairs(NamedTuple):
    """P pairs. All [P] float64: summed log-probs of the chosen and the rejected answer under the policy (with gradient)
    and the reference, and their numbers of tokens."""

    chosen: Tensor
    rejected: Tensor
    chosen_reference: Tensor
    rejected_reference: Tensor
    chosen_length: Tensor
    rejected_length: Tensor

    @property
    def delta(self) -> Tensor:
        """Δ [P]."""
        return (self.chosen - self.chosen_reference) - (self.rejected - self.rejected_reference)

    @property
    def average_delta(self) -> Tensor:
        """Δ̄ [P]: as Δ with means over tokens in place of sums."""
        chosen = (self.chosen - self.chosen_reference) / self.chosen_length
        return chosen - (self.rejected - self.rejected_reference) / self.rejected_length


PreferenceLoss = Callable[..., Tensor]
NEEDS_NO_REFERENCE = ("simpo", "orpo")


@preference_losses("sigmoid")
def sigmoid(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """ℓ = −(1−ε) log σ(βΔ) − ε log σ(−βΔ).

    Source: DPO (Rafailov et al. 2023, eq. 7); with ε > 0 conservative DPO (Mitchell 2023). Defaults β 0.1, ε 0.
    """
    logits = beta * pairs.delta
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


@preference_losses("robust")
def robust(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """ℓ = (−(1−ε) log σ(βΔ) + ε log σ(−βΔ)) / (1 − 2ε): unbiased if a share ε of labels is flipped.

    Source: Robust DPO (Chowdhury et al. 2024, eq. 12).
    """
    logits = beta * pairs.delta
    loss = -(1 - label_smoothing) * logsigmoid(logits) + label_smoothing * logsigmoid(-logits)
    return loss / (1 - 2 * label_smoothing)


@preference_losses("hinge")
def hinge(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ℓ = max(0, 1 − βΔ). Source: SLiC-HF (Zhao et al. 2023) in the form of RSO (Liu et al. 2023, eq. 11)."""
    return relu(1 - beta * pairs.delta)


@preference_losses("ipo")
def ipo(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ℓ = (Δ̄ − 1/(2β))², Δ̄ over means of tokens: the margin is regressed to a constant, not pushed for ever.

    Source: IPO (Azar et al. 2023, eq. 17); means of tokens as its authors recommended later.
    """
    return (pairs.average_delta - 1 / (2 * beta)).square()


@preference_losses("length_normalised")
def length_normalised(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ℓ = −log σ(βΔ̄): DPO on means of tokens. Source: Tülu 3 (Lambert et al. 2024, eq. 6). β there is 5 or more."""
    return -logsigmoid(beta * pairs.average_delta)


@preference_losses("simpo")
def simpo(pairs: Pairs, *, beta: float = 2.0, margin: float = 0.5) -> Tensor:
    """ℓ = −log σ(β(c̄_w − c̄_l) − γ), c̄ means of tokens; no reference. Source: SimPO (Meng et al. 2024, eq. 6)."""
    average = pairs.chosen / pairs.chosen_length - pairs.rejected / pairs.rejected_length
    return -logsigmoid(beta * average - margin)


@preference_losses("orpo")
def orpo(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ℓ = −c̄_w − β log σ(odds_w − odds_l), odds = c̄ − log(1 − e^c̄); no reference: likelihood and preference at once.

    Source: ORPO (Hong et al. 2024, eq. 6 and 7). Here each pair's likelihood is the mean over its tokens.
    """
    chosen, rejected = pairs.chosen / pairs.chosen_length, pairs.rejected / pairs.rejected_length
    return -chosen - beta * logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def _log_odds(logprob: Tensor) -> Tensor:
    return logprob - torch.log(-torch.expm1(logprob.clamp(max=-1e-9)))


def kto(current: Tensor, reference: Tensor, liked: Tensor, baseline: Tensor | float, *, beta: float = 0.1) -> Tensor:
    """ℓ [N] = 1 − σ(β(c − r) − z) for liked answers, 1 − σ(z − β(c − r)) for the others; z = max(0, β·baseline).

    current, reference, liked (bool): [N] per answer. baseline: estimate of KL(policy ‖ reference), a mean of c − r over
    answers put to prompts they do not belong to; it carries no gradient. Source: KTO (Ethayarajh et al. 2024, eq. 8),
    with equal weights for both kinds.
    """
    z = (beta * torch.as_tensor(baseline, dtype=current.dtype)).clamp(min=0.0).detach()
    value = beta * (current - reference) - z
    return 1 - torch.sigmoid(torch.where(liked, value, -value))


def pair_importance(current: Tensor, behaviour: Tensor, length: Tensor, cap: float) -> Tensor:
    """[P]: how much likelier the policy is to draw a pair's answers now than when they were drawn, at most `cap`.

    min(exp(Σ (c − g) / tokens), cap) over the tokens of both answers, without gradient: the geometric mean, because the
    product over all tokens of two answers is nearly 0 or beyond every cap. It makes the pairs of a stale policy count
    as if the present one had drawn them. current, behaviour (summed log-probs), length: [2P], chosen before rejected.
    """
    drift = (current - behaviour).view(-1, 2).sum(-1) / length.view(-1, 2).sum(-1).clamp(min=1)
    return drift.detach().clamp(max=LOG_RATIO_LIMIT).exp().clamp(max=cap)


def answer_weights(losses: Callable[[Tensor], Tensor], current: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of a batch's preference loss with respect to its answers' log-probs.

    losses: [N] summed log-probs -> [P] losses. current: [N] float64.

    Returns (losses [P], weights [N]): Σ weights · current has the gradient of the mean loss.
    """
    leaf = current.detach().clone().requires_grad_()
    values = losses(leaf)
    (weights,) = torch.autograd.grad(values.mean(), leaf)
    return values.detach(), weights


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
