"""The batch that rank 0 hands to all ranks: flat arrays of whole sequences, sent as one tensor.

Every rank gets the whole batch (a few bytes per token), so packing, normalisation weights and mini-batches are computed
everywhere from the same numbers and never sent. Position t of every per-token array belongs to token t, which the model
predicts at position t−1; position 0 is never trained.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Signal = Literal["none", "advantage", "reward", "role", "score"]
"""What a batch's samples say beside their tokens: nothing, an advantage, a reward where it was given (at the last
token), the role in a pair (1 chosen, -1 rejected, 0 put to another prompt), or the data's score of the answer."""


class InvalidBatch(ValueError):
    """A batch or a sample that must not reach the model; the message names it."""


@dataclass(frozen=True)
class TrainingSample:
    """One sequence for training, on rank 0.

    Attributes:
      tokens: [L] ids, L ≥ 2. loss_mask: [L], 1 where the token is trained.
      behaviour_logprobs: [L] log-prob under the engine, used where the mask is 1; None for supervised data.
      signal: one number, or [L]; what it means is its batch's `kind`.
      group: id of the prompt's group, ≥ 0; samples of a group share it.
      member: which member of its group it is a context of; contexts of one member are one answer where answers are
        counted or averaged. None for one that is an answer by itself.
      versions: [L] which version (step) drew the token, used where the mask is 1; None where nobody drew it.
      alternatives: [L, K] ids and [L, K] log-probs of what a teacher would rather have drawn; None where none was
        asked. K is the same for all samples of a batch.
      routes: [n, layers, top] with n < L, the experts of a mixture that the engine sent the first n tokens to, as
        `Batch.routes`; None where it recorded none.
    """

    tokens: ArrayLike
    loss_mask: ArrayLike
    behaviour_logprobs: ArrayLike | None = None
    signal: float | ArrayLike = 0.0
    group: int = 0
    member: int | None = None
    versions: ArrayLike | None = None
    alternatives: tuple[ArrayLike, ArrayLike] | None = None
    routes: NDArray[np.integer] | None = None


@dataclass(frozen=True)
class Batch:
    """N sequences with T tokens in all; CPU or device tensors.

    Attributes: lengths, groups, answers: int32 [N]; sequences with one number in `answers` are contexts of one answer.
    tokens: int32 [T]. mask (0.0 or 1.0), behaviour, signal, age (versions
    between the one that drew the token and the one that is trained): fp32 [T]. alternatives: int32 [T, K] ids and
    alternative_logprobs: fp32 [T, K], what a teacher would rather have drawn; K = 0 without one. kind: what the signal
    means. routes: uint8 or int16 [T, layers, top], the experts that a mixture sent each token to as an input; 255 or -1
    where nobody recorded it. On the host wherever the rest is; None where no sample has any.
    """

    kind: Signal
    lengths: Tensor
    groups: Tensor
    answers: Tensor
    tokens: Tensor
    mask: Tensor
    behaviour: Tensor
    signal: Tensor
    age: Tensor
    alternatives: Tensor
    alternative_logprobs: Tensor
    routes: Tensor | None = None

    @staticmethod
    def from_samples(samples: Sequence[TrainingSample], kind: Signal, version: int = 0) -> "Batch":
        """The batch to be trained on weights of `version`.

        Raises InvalidBatch for an empty batch or a sample that breaks the rules of `TrainingSample`."""
        if not samples:
            raise InvalidBatch("a batch needs at least one sample")
        columns = [_checked(i, s, version) for i, s in enumerate(samples)]
        tokens, mask, behaviour, signal, age, others, their = (np.concatenate(c) for c in zip(*columns, strict=True))
        return Batch(
            kind=kind,
            lengths=torch.tensor([len(c[0]) for c in columns], dtype=torch.int32),
            groups=torch.tensor([s.group for s in samples], dtype=torch.int32),
            answers=torch.tensor(_answers(samples), dtype=torch.int32),
            tokens=torch.from_numpy(tokens),
            mask=torch.from_numpy(mask),
            behaviour=torch.from_numpy(behaviour),
            signal=torch.from_numpy(signal),
            age=torch.from_numpy(age),
            alternatives=torch.from_numpy(others),
            alternative_logprobs=torch.from_numpy(their),
            routes=_routes(samples, [len(c[0]) for c in columns]),
        )

    def expect(self, kind: Signal) -> None:
        """Raises InvalidBatch where the samples carry another kind of signal: trained on, it would be taken for it."""
        if self.kind != kind:
            raise InvalidBatch(f"the samples of this batch carry {self.kind!r}; this trainer takes {kind!r} alone")

    @property
    def sequences(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> Tensor:
        """int64 [N]: where each sequence begins in the flat arrays."""
        lengths = self.lengths.to(torch.int64)
        return torch.cumsum(lengths, 0) - lengths

    @property
    def sequence_of_token(self) -> Tensor:
        """int64 [T]."""
        index = torch.arange(self.sequences, device=self.lengths.device)
        return torch.repeat_interleave(index, self.lengths.to(torch.int64))

    @property
    def group_of_sequence(self) -> Tensor:
        """int64 [N]: the groups, numbered from 0."""
        return torch.unique(self.groups, return_inverse=True)[1]

    @property
    def answer_of_sequence(self) -> Tensor:
        """int64 [N]: the answers, numbered from 0."""
        return torch.unique(self.answers, return_inverse=True)[1]

    @property
    def answer_of_token(self) -> Tensor:
        """int64 [T]."""
        return self.answer_of_sequence[self.sequence_of_token]

    @property
    def group_of_answer(self) -> Tensor:
        """int64 [answers]: the groups, numbered from 0."""
        answers, groups = self.answer_of_sequence, self.group_of_sequence
        return groups.new_zeros(int(answers.max()) + 1).index_copy(0, answers, groups)

    def select(self, sequences: Tensor) -> "tuple[Batch, Tensor]":
        """The batch of the given sequences (int64 [n]), and the positions (int64) of its tokens in this batch."""
        lengths = self.lengths[sequences].to(torch.int64)
        within = torch.arange(int(lengths.sum()), device=lengths.device)
        within -= torch.repeat_interleave(torch.cumsum(lengths, 0) - lengths, lengths)
        where = torch.repeat_interleave(self.starts[sequences], lengths) + within
        part = Batch(
            self.kind,
            self.lengths[sequences],
            self.groups[sequences],
            self.answers[sequences],
            *(x[where] for x in self._columns()[3:]),
        )
        return part._with_routes(None if self.routes is None else self.routes[where.cpu()]), where

    def check(self, vocabulary: int, positions: int) -> None:
        """Raises InvalidBatch for a token outside 0 … vocabulary−1, or a sequence with more inputs (all tokens but the
        last) than positions."""
        every = torch.cat([self.tokens, self.alternatives.view(-1)])
        low, high = int(every.min()), int(every.max())
        if low < 0 or high >= vocabulary:
            raise InvalidBatch(f"token {low if low < 0 else high} is outside the vocabulary of {vocabulary}")
        longest = int(self.lengths.max())
        if longest - 1 > positions:
            raise InvalidBatch(f"a sequence has {longest} tokens, the model {positions} positions")

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.kind, *(x.to(device) for x in self._columns()))._with_routes(self.routes)

    def without_routes(self) -> "Batch":
        """The same, of which every token is routed anew."""
        return self._with_routes(None)

    def _with_routes(self, routes: Tensor | None) -> "Batch":
        return replace(self, routes=routes)

    @property
    def routes_known(self) -> float:
        """Share of the inputs whose routes were recorded."""
        inputs = len(self.tokens) - self.sequences
        return 0.0 if self.routes is None else float((self.routes[:, 0, 0] != _unknown(self.routes)).sum()) / inputs

    def _columns(self) -> tuple[Tensor, ...]:
        per_token = (self.tokens, self.mask, self.behaviour, self.signal, self.age)
        return (self.lengths, self.groups, self.answers, *per_token, self.alternatives, self.alternative_logprobs)


def _answers(samples: Sequence[TrainingSample]) -> list[int]:
    """The number of the answer that each sample is a context of."""
    numbers: dict[tuple[int, int | None, int], int] = {}
    keys = ((s.group, s.member, i if s.member is None else 0) for i, s in enumerate(samples))
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _checked(i: int, sample: TrainingSample, version: int) -> tuple[np.ndarray, ...]:
    tokens = np.asarray(sample.tokens, dtype=np.int32)
    length = len(tokens)
    mask = np.asarray(sample.loss_mask, dtype=np.float32)
    behaviour: Any = np.zeros(length, np.float32)
    if sample.behaviour_logprobs is not None:
        behaviour = np.asarray(sample.behaviour_logprobs, dtype=np.float32)
    age: Any = np.zeros(length, np.float32)
    if sample.versions is not None:
        age = np.maximum(version - np.asarray(sample.versions), 0).astype(np.float32)
    signal = np.broadcast_to(np.asarray(sample.signal, dtype=np.float32), (length,))
    if tokens.ndim != 1 or length < 2:
        raise InvalidBatch(f"sample {i}: needs at least 2 tokens in one row, got shape {tokens.shape}")
    if mask.shape != tokens.shape or behaviour.shape != tokens.shape or age.shape != tokens.shape:
        raise InvalidBatch(f"sample {i}: {length} tokens, mask {mask.shape}, log-probabilities {behaviour.shape}")
    if not np.isin(mask, (0.0, 1.0)).all() or mask[0] != 0.0:
        raise InvalidBatch(f"sample {i}: the mask must be 0 or 1, and 0 at the first token, which nothing predicts")
    trained = mask > 0
    if not (np.isfinite(behaviour[trained]).all() and np.isfinite(signal[trained]).all()):
        raise InvalidBatch(f"sample {i}: a trained token has a log-probability or signal that is not finite")
    if not 0 <= sample.group < 2**31:
        raise InvalidBatch(f"sample {i}: group {sample.group} is not an int32 >= 0")
    columns = (np.where(trained, column, np.float32(0)) for column in (behaviour, signal, age))
    return tokens, mask, *columns, *_alternatives(i, sample, trained)


def _alternatives(i: int, sample: TrainingSample, trained: NDArray[np.bool_]) -> tuple[np.ndarray, np.ndarray]:
    ids, logprobs = sample.alternatives or (np.zeros((len(trained), 0)), np.zeros((len(trained), 0)))
    ids, logprobs = np.asarray(ids, np.int32), np.asarray(logprobs, np.float32)
    if ids.shape != logprobs.shape or ids.ndim != 2 or len(ids) != len(trained):
        raise InvalidBatch(
            f"sample {i}: {len(trained)} tokens, alternatives {ids.shape}, their log-probs {logprobs.shape}"
        )
    if not np.isfinite(logprobs[trained]).all():
        raise InvalidBatch(f"sample {i}: an alternative of a trained token has a log-probability that is not finite")
    return np.where(trained[:, None], ids, np.int32(0)), np.where(trained[:, None], logprobs, np.float32(0))


def _routes(samples: Sequence[TrainingSample], lengths: Sequence[int]) -> Tensor | None:
    """The samples' rows at their tokens. Raises InvalidBatch for samples whose rows are of different models, or more
    than there are inputs."""
    some = next((s.routes for s in samples if s.routes is not None), None)
    if some is None:
        return None
    rows = torch.from_numpy(some[:0])
    whole = torch.full((sum(lengths), *rows.shape[1:]), _unknown(rows), dtype=rows.dtype)
    start = 0
    for i, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        own = sample.routes
        if own is not None:
            if own.shape[1:] != some.shape[1:] or own.dtype != some.dtype or len(own) >= length:
                raise InvalidBatch(f"sample {i}: {length} tokens, routes {own.shape} of {own.dtype}")
            whole[start : start + len(own)] = torch.from_numpy(own)
        start += length
    return whole


def _unknown(routes: Tensor) -> int:
    return 255 if routes.dtype == torch.uint8 else -1


def broadcast(batch: Batch | None, device: torch.device) -> Batch:
    """Rank 0's batch on every rank, on `device` (collective; other ranks pass None).

    Two messages: the sizes and the kind, then all columns as one int32 tensor (floats by their bits). Routes are a
    third, of bytes.
    """
    if dist.get_world_size() == 1:
        assert batch is not None
        return batch.to(device)
    kinds = get_args(Signal)
    sizes = torch.zeros(7, dtype=torch.int64, device=device)
    flat = None
    if batch is not None:
        flat = torch.cat([c.contiguous().view(-1).view(torch.int32) for c in batch._columns()]).to(device)
        rows = (0, 0, 0) if batch.routes is None else (*batch.routes.shape[1:], batch.routes.itemsize)
        sizes.copy_(torch.tensor([batch.sequences, *batch.alternatives.shape, kinds.index(batch.kind), *rows]))
    dist.broadcast(sizes, src=0)
    n, t, k, kind, *rows_of = (int(x) for x in sizes)
    parts = [n, n, n, t, t, t, t, t, t * k, t * k]
    if flat is None:
        flat = torch.empty(sum(parts), dtype=torch.int32, device=device)
    dist.broadcast(flat, src=0)
    lengths, groups, answers, tokens, *floats, others, their = flat.split(parts)
    mask, behaviour, signal, age = (f.view(torch.float32) for f in floats)
    others, their = others.view(t, k), their.view(torch.float32).view(t, k)
    routes = _broadcast_routes(None if batch is None else batch.routes, (t, rows_of[0], rows_of[1]), rows_of[2], device)
    return Batch(kinds[kind], lengths, groups, answers, tokens, mask, behaviour, signal, age, others, their, routes)


def _broadcast_routes(
    routes: Tensor | None, shape: tuple[int, int, int], size: int, device: torch.device
) -> Tensor | None:
    """size: bytes of a number, 0 where there are no routes."""
    if not size:
        return None
    sent = torch.empty(math.prod(shape) * size, dtype=torch.uint8, device=device)
    if routes is not None:
        sent.copy_(routes.contiguous().view(-1).view(torch.uint8))
    dist.broadcast(sent, src=0)
    kind = torch.uint8 if size == 1 else torch.int16
    return sent.cpu().view(kind).view(shape)
