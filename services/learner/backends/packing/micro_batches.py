"""A batch cut into packed micro-batches for one rank: what the model is fed, and where its outputs belong.

Inputs are tokens 0 … L−2 of each sequence (the last one predicts nothing), padded to the layout's alignment,
concatenated, and cut zigzag over context ranks. Targets are shifted *before* the cut. Only trained tokens are scored.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from penstock import packing
from services.learner.backends.packing import zigzag
from services.learner.backends.packing.packs import Pack, describe_pack
from services.learner.interface.batch import Batch


@dataclass(frozen=True)
class Cut:
    """How a batch is shared out, and this rank's share.

    Attributes:
      ranks, rank: data-parallel ranks, each with micro-batches of its own, and which one this is.
      context, context_rank: ranks that share every sequence. whole: for attention they share heads instead.
      alignment: tokens a packed sequence is padded to a multiple of.
      round: what the number of micro-batches must be a multiple of.
      quadratic: what attention makes of a sequence's work (see `packing.pack`).
    """

    ranks: int
    rank: int
    context: int = 1
    context_rank: int = 0
    alignment: int = 1
    round: int = 1
    whole: bool = False
    quadratic: float = 0.0


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass on one rank. t local (padded) tokens, n local and k pack-wide trained tokens, S sequences.

    Attributes:
      tokens, positions: int64 [1, t].
      pack: where its sequences lie, for attention and RoPE.
      rows: int64 [n], local positions that predict a trained token.
      targets: int64 [n, 1 + K], that token and its K alternatives.
      index: int64 [k], positions of the pack's trained tokens in the batch's flat arrays, in natural order.
      sequence: int64 [k], 0 … sequences−1. sequences: S.
      join: int64 [k] or None; under context parallelism, where each trained token lies in the concatenation of all
        context ranks' [t] positions.
    """

    tokens: Tensor
    positions: Tensor
    pack: Pack
    rows: Tensor
    targets: Tensor
    index: Tensor
    sequence: Tensor
    sequences: int
    join: Tensor | None


@dataclass(frozen=True)
class Planned:
    """Attributes:
    parts: this rank's micro-batches, equally many on every rank.
    described: `packing_waste`, share of the budgeted tokens of all micro-batches that carry nothing, padding included;
      `packing_imbalance`, work of the busiest data rank over the mean of all, 1 where it is equal.
    """

    parts: list[MicroBatch]
    described: dict[str, float]


def plan(batch: Batch, cut: Cut, budget: int) -> Planned:
    """How the batch is fed to the model; all ranks make the same plan. Raises penstock.packing.SequenceTooLong."""
    starts, lengths, padded = batch.starts.tolist(), batch.lengths.tolist(), _padded(batch, cut)
    packs = packing.pack(padded, budget, ranks=cut.ranks, quadratic=cut.quadratic)
    mine = packs.micro_batches[cut.rank]
    mine = [*mine, *[[] for _ in range(-len(mine) % cut.round)]]
    return Planned(
        [_pack([(starts[i], lengths[i]) for i in sequences], batch, cut) for sequences in mine],
        {
            "packing_waste": 1.0 - float((batch.lengths - 1).sum()) / (packs.per_rank * cut.ranks * budget),
            "packing_imbalance": packs.imbalance(packing.work_of(padded, cut.quadratic)),
        },
    )


def _padded(batch: Batch, cut: Cut) -> list[int]:
    return [-(-(n - 1) // cut.alignment) * cut.alignment for n in batch.lengths.tolist()]


def _pack(spans: list[tuple[int, int]], batch: Batch, cut: Cut) -> MicroBatch:
    """spans: (start, tokens) of each sequence in the flat arrays; none for a rank that must wait with the others, which
    runs one untrained stretch of token 0."""
    align, device = cut.alignment, batch.tokens.device
    context, rank = cut.context, cut.context_rank
    inputs = [length - 1 for _, length in spans] or [1]
    padded = [-(-n // align) * align for n in inputs]
    pack = describe_pack(inputs, padded, device, context, cut.whole or context == 1)

    size = torch.tensor(inputs)
    room = torch.tensor(padded)
    begin = torch.tensor(pack.boundaries[:-1])
    sequence = torch.repeat_interleave(torch.arange(len(padded)), room)
    position = torch.arange(pack.boundaries[-1]) - begin[sequence]
    real = position < size[sequence]
    if not spans:
        real = torch.zeros_like(real)
    start = torch.tensor([s for s, _ in spans] or [0])
    source = torch.where(real, start[sequence] + position, 0).to(device)
    sequence, position, real = sequence.to(device), position.to(device), real.to(device)

    tokens = torch.where(real, batch.tokens[source].to(torch.int64), 0)
    target_at = torch.where(real, source + 1, 0)
    trained = real & (batch.mask[target_at] > 0)
    targets = torch.cat([batch.tokens[target_at][:, None], batch.alternatives[target_at]], 1).to(torch.int64)
    local = zigzag.local_index(pack.boundaries, context, rank).to(device)
    rows = torch.nonzero(trained[local])[:, 0]
    whole = torch.nonzero(trained)[:, 0]
    join = None
    if context > 1:
        join = zigzag.join_index(pack.boundaries, context).to(device)[whole]
    return MicroBatch(
        tokens=tokens[local][None],
        positions=position[local][None],
        pack=pack,
        rows=rows,
        targets=targets[local][rows],
        index=target_at[whole],
        sequence=sequence[whole],
        sequences=len(padded),
        join=join,
    )
