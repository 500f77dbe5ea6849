"""What a policy does whatever computes it: plan a batch's micro-batches once, score, step, keep a reference, be saved.

A backend gives one forward and backward pass over planned micro-batches (`_run`), its optimizer and its state.
"""

import abc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from penstock.telemetry import steps
from penstock.trajectories import RouteShape
from services.learner.backends.common.allocator import give_back
from services.learner.backends.common.reference import ReferenceWeights
from services.learner.backends.common.steps import ScoreOnly, SteppingOptimizer, stepped
from services.learner.backends.packing import micro_batches
from services.learner.backends.packing.building import Cut, MicroBatch
from services.learner.backends.packing.micro_batches import Planned
from services.learner.checkpoints.directory import REFERENCE
from services.learner.interface.batch import Batch
from services.learner.interface.policy import Loss, StepOutcome, Takes
from services.learner.interface.policy_spec import PolicySpec
from services.learner.interface.snapshot import Snapshot


class State(Protocol):
    """One rank's part of a checkpoint."""

    def snapshot(self) -> Snapshot: ...

    def load(self, path: str | Path) -> dict[str, Any]: ...

    def snapshot_of(self, weights: Mapping[str, Tensor], part: str) -> Snapshot:
        """Of weights beside the model's own, by the parameters' names; without an optimizer."""
        ...

    def load_weights(self, path: str | Path, part: str) -> None:
        """Into the model's parameters; a collective. Raises as `Policy.load`."""
        ...


class PolicyBase(abc.ABC):
    """See `services.learner.interface.policy.Policy`, which subclasses implement; every method is a collective."""

    def __init__(
        self,
        spec: PolicySpec,
        cut: Cut,
        knows: tuple[int, int],
        optimizer: SteppingOptimizer,
        state: State,
        without_adapters: Callable[[], AbstractContextManager[None]] | None,
    ) -> None:
        """knows: the size of the vocabulary, and how many positions. without_adapters: in which the model is the base
        that its adapters change; None where it has none."""
        self.spec, self.optimizer, self.state = spec, optimizer, state
        self._cut, self._knows, self._without_adapters = cut, knows, without_adapters
        self._reference: ReferenceWeights | None = None
        self._planned: tuple[Batch, Planned] | None = None

    @property
    def takes(self) -> Takes:
        """What a batch may hold, or `train_step` raises."""
        vocabulary, positions = self._knows
        room = self.spec.learner.micro_batch_tokens // self._cut.alignment * self._cut.alignment
        return Takes(vocabulary, min(positions, room) + 1, self._replayed())

    def logprobs(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """fp32 [T]: log-prob of every trained token under the current weights, 0 elsewhere; on every rank."""
        return self.logprobs_and_entropies(batch, temperature)[0]

    def logprobs_and_entropies(self, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """`logprobs`, and fp32 [T]: the entropy of what every trained token was drawn from; one forward pass."""
        if self.spec.scores:
            raise TypeError("this model scores: it has no log-probabilities")
        logprobs, entropies, _ = self._said(batch, temperature)
        return logprobs, entropies

    def logprobs_and_collisions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`logprobs`, and fp32 [T]: log Σ p² of what every trained token was drawn from; one forward pass."""
        if self.spec.scores:
            raise TypeError("this model scores: it has no log-probabilities")
        logprobs, _, collisions = self._said(batch, 1.0)
        return logprobs, collisions

    def scores(self, batch: Batch) -> Tensor:
        """fp32 [T]: of a model that scores, its word on what stands before every trained token; 0 elsewhere."""
        if not self.spec.scores:
            raise TypeError("this model writes: it has no scores")
        return self._said(batch, 1.0)[0]

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """As `logprobs`, under the weights the policy was created with, or those that follow it. Raises RuntimeError
        without keep_reference (or adapters)."""
        as_reference = self._without_adapters or (self._reference.in_place if self._reference is not None else None)
        if as_reference is None:
            raise RuntimeError("the policy was created without keep_reference")
        self._settle()
        with as_reference(), self._routed_anew():
            return self.logprobs(batch, temperature)

    def follow(self, share: float) -> None:
        """Moves the reference to share · policy + (1 − share) · reference. Raises RuntimeError without a reference of
        its own."""
        if self._reference is None:
            raise RuntimeError("the policy was created without keep_reference, or with adapters")
        self._settle()
        self._reference.follow(share)

    @property
    def reference_moves(self) -> int:
        """How often the reference has become another."""
        return 0 if self._reference is None else self._reference.moves

    def train_step(self, batch: Batch, loss: Loss, temperature: float = 1.0, live: Tensor | None = None) -> StepOutcome:
        """Forward and backward over the batch's `live` samples, forward over the others, then one guarded optimizer
        step.

        Raises InvalidBatch (a token the model does not know, a sequence beyond its positions), SequenceTooLong,
        NonFiniteGradients (too many steps skipped in a row).
        """
        planned, before = self._plan(batch, live), None
        if live is not None and not bool(live.all()):
            scored = self._plan(batch, ~live)
            with torch.no_grad():
                before = self._run(batch, scored.parts, loss, temperature, training=False)
        self._zero_grad()
        said, sums = self._run(batch, planned.parts, loss, temperature, training=True)
        if before is not None:
            said, sums, planned = said + before[0], sums + before[1], planned.beside(scored)
        experts = self._experts_used()
        if live is not None and not bool(live.any()):
            experts = {}  # no token was trained, and what fills up a pack says nothing
        if planned.unshared is not None:
            experts |= {steps.ROUTES_UNSHARED: planned.unshared}
        outcome = replace(stepped(self.optimizer, loss, (said[0], sums), planned), experts=experts)
        give_back()
        return outcome

    def adapters(self) -> Iterator[tuple[str, Tensor]]:
        """As `export`, the adapters alone, under PEFT's names. Raises RuntimeError if there are none."""
        if self._without_adapters is None:
            raise RuntimeError("the policy was created without adapters")
        return self._export_adapters()

    def snapshot(self) -> Snapshot:
        """What this rank writes into a checkpoint; refers to live memory."""
        self._settle()
        taken = self.state.snapshot()
        if not self.spec.follows or self._reference is None:
            return taken
        return taken.beside(REFERENCE, self.state.snapshot_of(self._reference.values, REFERENCE))

    def load(self, path: str | Path) -> dict[str, Any]:
        """Restores a checkpoint of any layout; returns its `extra`. Raises as `Policy.load`."""
        self._settle()
        extra = self.state.load(path)
        if self.spec.follows and self._reference is not None:
            with self._reference.filled():
                self.state.load_weights(path, REFERENCE)
        return extra

    @property
    @abc.abstractmethod
    def architecture(self) -> str:
        """The class by which transformers loads what is exported, as a config.json names it."""

    @abc.abstractmethod
    def export(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, whole CPU tensor) on rank 0, nothing elsewhere; every rank must drain it. Adapters are
        merged into the weights."""

    @abc.abstractmethod
    def owned(self) -> Iterator[tuple[str, Tensor]]:
        """As `export`, on every rank those that it publishes: over all ranks each tensor once, about as many bytes on
        each of a pipeline stage."""

    def _keep_reference(self, weights: Mapping[str, Tensor]) -> None:
        """Remembers the initial weights where the spec wants them and they are not there anyway."""
        if self.spec.keep_reference and self._without_adapters is None:
            self._reference = ReferenceWeights(weights, self.spec.hosts_reference)

    def _said(self, batch: Batch, temperature: float) -> Tensor:
        with torch.no_grad():
            said, _ = self._run(batch, self._plan(batch).parts, ScoreOnly(), temperature, training=False)
        return said

    def _plan(self, batch: Batch, chosen: Tensor | None = None) -> Planned:
        """The batch's micro-batches: made once, however often the very same batch is scored before it is trained on.
        chosen: bool [N], of which samples, where not all are."""
        if chosen is not None and not bool(chosen.all()):
            batch.check(*self._knows)
            return micro_batches.plan(batch, self._cut, self.spec.learner.micro_batch_tokens, chosen)
        if self._planned is None or self._planned[0] is not batch:
            batch.check(*self._knows)
            budget = self.spec.learner.micro_batch_tokens
            self._planned = batch, micro_batches.plan(batch, self._cut, budget)
        return self._planned[1]

    @abc.abstractmethod
    def _settle(self) -> None:
        """Makes this rank's weights whole, before they are read or written other than by a forward pass."""

    def _zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def _replayed(self) -> RouteShape | None:
        """Of a mixture that replays routes, what a row of them has."""
        return None

    def _routed_anew(self) -> AbstractContextManager[None]:
        """In which no routes are replayed: those of a batch are the policy's, and of no other weights."""
        return nullcontext()

    def _experts_used(self) -> dict[str, float]:
        """How evenly a mixture's experts were used in the batch that was trained; a collective."""
        return {}

    @abc.abstractmethod
    def _export_adapters(self) -> Iterator[tuple[str, Tensor]]: ...

    @abc.abstractmethod
    def _run(
        self, batch: Batch, parts: list[MicroBatch], loss: Loss, temperature: float, training: bool
    ) -> tuple[Tensor, Tensor]:
        """Log-probs (or scores), entropies and collisions of trained tokens [3, T], and [loss, *statistics] summed over
        the batch, both equal on every rank; gradients are accumulated in training."""
