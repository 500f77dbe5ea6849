"""What trains a model, as every trainer sees it: score tokens, take one optimizer step, export and load.

It knows nothing of algorithms: a loss is a function of the log-probabilities of the trained tokens (`TokenScores`),
already normalised over the whole batch, so the losses of all micro-batches and ranks are summed and never averaged.

`MegatronPolicy` and `TransformersPolicy` implement it. Every method is a collective.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from penstock.trajectories import RouteShape
from services.learner.interface.batch import Batch
from services.learner.interface.rate import Rate
from services.learner.interface.snapshot import Snapshot


@dataclass(frozen=True)
class TokenScores:
    """The trained tokens of one micro-batch, whole sequences in natural order under any layout.

    Attributes:
      current, entropy: fp32 [k] with gradient.
      collision: fp32 [k], log Σ p² of what the token was drawn from, without gradient.
      alternatives: fp32 [k, K] with gradient, log-probs of the batch's alternatives to each token.
      index: int64 [k], their positions in the batch's flat arrays.
      sequence: int64 [k], 0 … sequences−1. sequences: how many the micro-batch has.
    """

    current: Tensor
    entropy: Tensor
    collision: Tensor
    index: Tensor
    sequence: Tensor
    sequences: int
    alternatives: Tensor

    @staticmethod
    def of(
        logprobs: Tensor, entropy: Tensor, collision: Tensor, index: Tensor, sequence: Tensor, sequences: int
    ) -> "TokenScores":
        """logprobs: [k, 1 + K], of each token and its alternatives."""
        return TokenScores(logprobs[:, 0], entropy, collision, index, sequence, sequences, logprobs[:, 1:])

    def said(self) -> Tensor:
        """[3, k]: log-probs, entropies and collisions as they are told to trainers, without gradient."""
        return torch.stack([self.current.detach(), self.entropy.detach(), self.collision])


class Loss(Protocol):
    """A loss over one micro-batch. `names`: of the statistics it returns beside the loss, summed over the batch."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __call__(self, scored: TokenScores) -> tuple[Tensor, Tensor]:
        """(scalar that is this micro-batch's part of the global loss, float64 [len(names)])."""
        ...


@dataclass(frozen=True)
class StepOutcome:
    """Attributes:
    loss: of the whole batch. sums: the loss's statistics. current: fp32 [T] log-probs before the step, 0 if untrained.
    gradient_norm: before clipping. taken: False if the gradient was not finite and the weights were left alone.
    packing: `packing_waste`, share of the micro-batches' budgets that carried nothing; `packing_imbalance`, work of the
      busiest data rank over the mean of all.
    given, computed: tokens that the batch puts into the model, and those of them that it computed: what samples begin
      with alike once, what stands behind their last trained token not at all.
    experts: of a mixture, how evenly its experts were used, by the names of step metrics.
    """

    loss: float
    sums: dict[str, float]
    current: Tensor
    gradient_norm: float
    learning_rate: float
    taken: bool
    micro_batches: int
    packing: dict[str, float]
    given: int
    computed: int
    experts: Mapping[str, float] = field(default_factory=dict)


class Counters(Protocol):
    """How far an optimizer is. steps: asked for, skipped ones included. skipped: not taken, for a gradient that was
    not finite. rate: of the next step; what is set here holds from then on."""

    rate: Rate

    @property
    def steps(self) -> int: ...

    @property
    def skipped(self) -> int: ...


@dataclass(frozen=True)
class Takes:
    """What a policy can be trained on: ids of tokens below `vocabulary`, in samples of at most `longest` tokens.
    routes: of a mixture that replays them, what a row has; of others no routes are read."""

    vocabulary: int
    longest: int
    routes: RouteShape | None = None


class Policy(Protocol):
    """One rank's part of a model and its optimizer; a backend's implementation of everything below is a collective.

    A model that scores (a reward model, a critic) has one number per position where another has a distribution over
    tokens: what a loss is given as log-prob of token t is then the score of the tokens before t, whatever t is, and the
    entropy is 0. It has `scores` where another has `logprobs` and `reference_logprobs`; the others raise TypeError.
    """

    @property
    def optimizer(self) -> Counters: ...

    @property
    def takes(self) -> Takes: ...

    @property
    def architecture(self) -> str:
        """The class by which transformers loads what is exported, as a config.json names it."""
        ...

    def logprobs(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """fp32 [T]: log-prob of every trained token under the current weights, 0 elsewhere; on every rank.

        Raises as `train_step`.
        """
        ...

    def logprobs_and_entropies(self, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """`logprobs`, and fp32 [T]: the entropy in nats of what every trained token was drawn from, 0 elsewhere; one
        forward pass."""
        ...

    def logprobs_and_collisions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`logprobs`, and fp32 [T]: log Σ p² of what every trained token was drawn from, 0 elsewhere; one pass."""
        ...

    def scores(self, batch: Batch) -> Tensor:
        """fp32 [T]: the score of what stands before every trained token, 0 elsewhere; on every rank."""
        ...

    def reference_logprobs(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """As `logprobs`, under the weights the policy was created with, or those that follow it. Raises RuntimeError if
        it was told to keep none."""
        ...

    def follow(self, share: float) -> None:
        """Moves the reference to share · policy + (1 − share) · reference. Raises RuntimeError without a reference of
        its own (adapters' is the model without them)."""
        ...

    @property
    def reference_moves(self) -> int:
        """How often the reference has become another: what was computed with it before is of no use then."""
        ...

    def train_step(self, batch: Batch, loss: Loss, temperature: float = 1.0, live: Tensor | None = None) -> StepOutcome:
        """Forward and backward over the batch, then one guarded optimizer step. live: bool [N], samples that the loss
        has a gradient of; the others are scored alone, and all are if None. A step without a live one is still taken.

        Raises InvalidBatch (a token the model does not know, a sequence beyond its positions), SequenceTooLong,
        NonFiniteGradients (too many steps skipped in a row).
        """
        ...

    def export(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, whole CPU tensor) on rank 0, nothing elsewhere; every rank must drain it. Adapters are
        merged into the weights."""
        ...

    def owned(self) -> Iterator[tuple[str, Tensor]]:
        """As `export`, on every rank those that it publishes: over all ranks each tensor once, about as many bytes on
        each of a pipeline stage."""
        ...

    def adapters(self) -> Iterator[tuple[str, Tensor]]:
        """As `export`, the adapters alone, under PEFT's names (see weights.proto, Adapters).

        Raises RuntimeError if there are none.
        """
        ...

    def snapshot(self) -> Snapshot:
        """What this rank writes into a checkpoint; refers to live memory."""
        ...

    def load(self, path: str | Path) -> dict[str, Any]:
        """Restores a checkpoint of any layout; returns its `extra`.

        Under the layout that wrote it everything is restored exactly, random state included. Under another, weights
        and optimizer state are bitwise those of the checkpoint, and random state stays as seeded.
        Raises DamagedCheckpoint, AnotherModel, CheckpointError.
        """
        ...
