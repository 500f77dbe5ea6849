"""The preference step: from pairs of answers to new weights.

    log-probs of answers (policy, reference) → loss per pair → its gradient, a weight per answer → one step on
    Σ weight · log-prob

The loss depends on an answer only through the sum of its log-probs, so its gradient is a weight per answer, taken from
a forward pass before the step. That is the exact gradient, and answers are packed over micro-batches and ranks like
any others: the two of a pair need not meet. It costs one forward pass more than a loss that sees both at once.

A reference that does not follow the policy never changes, so its sums are kept by the digest of the sequence and
computed once, over all passes through the data; with one that follows, until it moves.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from penstock.objectives import preferences
from penstock.objectives.preferences import Pairs, answer_weights, pair_confidence, pair_importance
from penstock.recipes import Recipe
from services.learner.algorithms import resolve
from services.learner.algorithms.preference.pairs import CHOSEN, ELSEWHERE, REJECTED, paired
from services.learner.interface.batch import Batch
from services.learner.interface.policy import Policy, TokenScores
from services.learner.interface.step_result import StepResult, described


class PreferenceTrainer:
    """Raises UnknownChoice for a loss or parameter that does not exist."""

    def __init__(self, recipe: Recipe, policy: Policy) -> None:
        self._settings, self._policy = recipe.algorithm.preference, policy
        self._references = ReferenceSums(policy) if recipe.compares_with_reference else None
        if paired(self._settings):
            self._loss = resolve.preference_loss(self._settings)

    def step(self, batch: Batch) -> StepResult:
        """Trains on a batch of PreferencePairs (the same on every rank); a collective."""
        answers = self._answers(batch)
        values, weights = answer_weights(answers.losses, answers.current)
        counted = weights.to(torch.float32)[batch.sequence_of_token] * answers.counts
        token_weights = counted - self._settings.nll_coefficient * self._likelihood(batch, answers.role)
        own = torch.nonzero(answers.role != ELSEWHERE)[:, 0]
        part, where = batch.select(own)
        outcome = self._policy.train_step(part, LinearLoss(token_weights[where]))
        return StepResult(described(self._policy, [outcome], outcome.loss) | self._metrics(batch, answers, values))

    def measure(self, batch: Batch) -> dict[str, float]:
        """`loss`, `accuracy`, `margin` and rewards of a batch that is not trained on; a collective."""
        answers = self._answers(batch)
        return self._metrics(batch, answers, answers.losses(answers.current))

    def _answers(self, batch: Batch) -> "_Answers":
        batch.expect("role")
        role, counts = _roles(batch), self._counts(batch)
        if self._settings.wpo:
            logprobs, collisions = self._policy.logprobs_and_collisions(batch)
        else:
            logprobs, collisions = self._policy.logprobs(batch), None
        current = sequence_sums(batch, logprobs * counts)
        likelihood = float((self._likelihood(batch, role) * logprobs).sum(dtype=torch.float64))
        reference = torch.zeros_like(current) if self._references is None else self._references.of(batch, counts)
        if paired(self._settings):
            losses = self._pair_losses(batch, current, reference, collisions)
        else:
            elsewhere = (current - reference)[role == ELSEWHERE]
            baseline = elsewhere.mean() if len(elsewhere) else current.new_zeros(())
            losses = self._single_losses(role, reference, baseline)
        return _Answers(role, current, reference, losses, counts, likelihood)

    def _counts(self, batch: Batch) -> Tensor:
        """[T]: what a token counts in its answer's sum: 1, and behind the length of the pair's shorter answer the
        recipe's share."""
        share = self._settings.length_share
        if share is None:
            return torch.ones_like(batch.mask)
        lengths = sequence_sums(batch, batch.mask).view(-1, 2)
        shorter = lengths.min(1, keepdim=True).values.expand_as(lengths).reshape(-1)
        before = torch.cumsum(batch.mask, 0) - batch.mask
        first = before[(torch.cumsum(batch.lengths, 0) - batch.lengths).to(torch.int64)]
        place = before - first[batch.sequence_of_token]
        return torch.where(place < shorter[batch.sequence_of_token], 1.0, share).to(batch.mask.dtype)

    def _likelihood(self, batch: Batch, role: Tensor) -> Tensor:
        """[T]: what a chosen answer's token weighs in the likelihood term, 0 elsewhere."""
        chosen = batch.mask * (role == CHOSEN)[batch.sequence_of_token]
        over = self._settings.nll_normalisation
        if over == "token":
            return chosen / chosen.sum().clamp(min=1)
        answers = chosen / (role == CHOSEN).sum().clamp(min=1)
        if over == "sum":
            return answers
        return answers / sequence_sums(batch, chosen).clamp(min=1).to(chosen.dtype)[batch.sequence_of_token]

    def _pair_losses(
        self, batch: Batch, current: Tensor, reference: Tensor, collisions: Tensor | None
    ) -> Callable[[Tensor], Tensor]:
        length, cap = sequence_sums(batch, batch.mask).clamp(min=1), self._settings.importance_cap
        weight: Tensor | float = 1.0
        if cap is not None:
            weight = pair_importance(current, sequence_sums(batch, batch.behaviour), length, cap)
        if collisions is not None:
            weight = weight * pair_confidence(current, sequence_sums(batch, collisions), length)

        def losses(answers: Tensor) -> Tensor:
            pairs: Tensor = self._loss(
                Pairs(answers[0::2], answers[1::2], reference[0::2], reference[1::2], length[0::2], length[1::2])
            )
            return weight * pairs

        return losses

    def _single_losses(self, role: Tensor, reference: Tensor, baseline: Tensor) -> Callable[[Tensor], Tensor]:
        own = role != ELSEWHERE

        def losses(answers: Tensor) -> Tensor:
            parameters = self._settings.parameters
            return preferences.kto(answers[own], reference[own], role[own] == CHOSEN, baseline, **parameters)

        return losses

    def _metrics(self, batch: Batch, answers: "_Answers", values: Tensor) -> dict[str, float]:
        """Rewards are the implicit ones, beta · (c − r); the margin is theirs, the accuracy their order's."""
        beta, role = self._settings.parameters.get("beta", 1.0), answers.role
        gained = answers.current - answers.reference
        chosen, rejected = beta * gained[role == CHOSEN], beta * gained[role == REJECTED]
        nll = -answers.likelihood
        metrics = {
            "loss": float(values.mean()) + self._settings.nll_coefficient * nll,
            "reward_chosen": _mean(chosen),
            "reward_rejected": _mean(rejected),
            "margin": _mean(chosen) - _mean(rejected),
            "nll": nll,
        }
        if paired(self._settings):
            metrics["accuracy"] = float((chosen > rejected).to(torch.float64).mean())
        return metrics


class _Answers(NamedTuple):
    """Of a batch's answers, before a step: roles, summed log-probs under policy and reference [N], and the losses as a
    function of the policy's; what their tokens count [T], and the chosen ones' mean log-prob."""

    role: Tensor
    current: Tensor
    reference: Tensor
    losses: Callable[[Tensor], Tensor]
    counts: Tensor
    likelihood: float


class LinearLoss:
    """Σ weight · log-prob: weights [T] are the gradient of a loss that was evaluated before."""

    names = ("tokens", "entropy")

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights

    def __call__(self, scored: TokenScores) -> tuple[Tensor, Tensor]:
        loss = (self._weights[scored.index] * scored.current).sum()
        tokens = torch.ones_like(scored.current).sum()
        return loss, torch.stack([tokens, scored.entropy.detach().sum()]).to(torch.float64)


class ReferenceSums:
    """Summed reference log-probs by sequence, each computed once for as long as the reference stays what it is. Every
    rank keeps the same ones."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._moves: int | None = None  # of the reference that the sums are of
        self._known: dict[bytes, float] = {}

    def of(self, batch: Batch, counts: Tensor | None = None) -> Tensor:
        """float64 [N]; a collective unless all are known, which all ranks agree on. counts [T]: what tokens count."""
        if self._policy.reference_moves != self._moves:
            self._known, self._moves = {}, self._policy.reference_moves
        counts = torch.ones_like(batch.mask) if counts is None else counts
        digests = _digests(batch, counts)
        missing = [i for i, d in enumerate(digests) if d not in self._known]
        if missing:
            part, where = batch.select(torch.tensor(missing, device=batch.lengths.device))
            sums = sequence_sums(part, self._policy.reference_logprobs(part) * counts[where]).tolist()
            self._known.update(zip((digests[i] for i in missing), sums, strict=True))
        return torch.tensor([self._known[d] for d in digests], dtype=torch.float64, device=batch.tokens.device)


def sequence_sums(batch: Batch, values: Tensor) -> Tensor:
    """[T] -> float64 [N]: sums over the trained tokens of each sequence."""
    kept = (values * batch.mask).to(torch.float64)
    return kept.new_zeros(batch.sequences).index_add(0, batch.sequence_of_token, kept)


def _roles(batch: Batch) -> Tensor:
    """[N]: the role of each sequence, which its trained tokens carry as signal."""
    return torch.sign(sequence_sums(batch, batch.signal))


def _digests(batch: Batch, counts: Tensor) -> list[bytes]:
    """Of tokens and of what each counts, whose bits stand for it."""
    tokens, mask = batch.tokens.cpu().to(torch.int32), (batch.mask * counts).to(torch.float32).cpu().view(torch.int32)
    both = torch.stack([tokens, mask], 1).contiguous().numpy()
    ends = torch.cumsum(batch.lengths.to(torch.int64), 0).tolist()
    return [
        hashlib.blake2b(both[start:end].tobytes(), digest_size=16).digest()
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0
