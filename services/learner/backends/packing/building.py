"""One micro-batch on one rank: what the model is fed, and where its outputs belong.

A trained token is scored at the packed position that predicts it. Where sequences share what they begin with, positions
repeat (n first tokens of n answers come from the one last position of their prompt), so every map between rows and
samples is an index. Targets are shifted *before* tokens are cut over context ranks. Only trained tokens are scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.packing import Segment, Tree
from services.learner.backends.packing import zigzag
from services.learner.backends.packing.packs import Pack, Sharing, describe_pack
from services.learner.interface.batch import Batch

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """How a batch is shared out, and this rank's share.

    Attributes:
      ranks, rank: data-parallel ranks, each with micro-batches of its own, and which one this is.
      context, context_rank: ranks that share every sequence. whole: for attention they share heads instead.
      alignment: tokens a packed sequence is padded to a multiple of.
      round: what the number of micro-batches must be a multiple of.
      quadratic: what attention makes of a sequence's work (see `packing.pack`).
      shares: whether what sequences begin with alike is computed once.
      keeps_ends: whether what stands behind a sequence's last trained token is computed: only where a loss looks at
        more than trained tokens.
      layers: of a mixture whose routes are replayed, those that this rank has, from 0; none where they are not.
    """

    ranks: int
    rank: int
    context: int = 1
    context_rank: int = 0
    alignment: int = 1
    round: int = 1
    whole: bool = False
    quadratic: float = 0.0
    shares: bool = False
    keeps_ends: bool = False
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass on one rank. t local (padded) tokens, n local and k pack-wide trained tokens, S sequences.

    Attributes:
      tokens, positions: int64 [1, t].
      pack: where its sequences lie, for attention and RoPE.
      rows: int64 [n], local positions that predict a trained token; one for each token, so they may repeat.
      targets: int64 [n, 1 + K], that token and its K alternatives.
      index: int64 [k], positions of the pack's trained tokens in the batch's flat arrays, in natural order.
      sequence: int64 [k], 0 … sequences−1. sequences: S.
      places, owners: int64, where every input token of every sequence lies in the pack, over all context ranks, and
        which sequence it is of.
      join: int64 [k] or None; under context parallelism, where each trained token lies in what all context ranks found
        at their rows, each filled up to `room`, one rank behind the other.
    """

    tokens: Tensor
    positions: Tensor
    pack: Pack
    rows: Tensor
    targets: Tensor
    index: Tensor
    sequence: Tensor
    sequences: int
    places: Tensor
    owners: Tensor
    join: Tensor | None
    room: int


@dataclass(frozen=True)
class Chosen:
    """What a micro-batch is of: (start, tokens) of each sequence in the flat arrays, and the tree of their inputs."""

    spans: Sequence[tuple[int, int]]
    tree: Tree


NOTHING = Chosen([], Tree([], [], []))
"""Of a rank that must wait with the others: it runs one untrained stretch of token 0."""


def build(chosen: Chosen, batch: Batch, cut: Cut, device: torch.device) -> MicroBatch:
    """batch: on the CPU; the micro-batch is on `device`."""
    segments = chosen.tree.segments or [Segment(0, 0, 1, -1)]
    sharing = Sharing(cut.context, cut.context_rank, cut.whole or cut.context == 1)
    lengths = [s.length for s in segments]
    padded = [-(-n // cut.alignment) * cut.alignment for n in lengths]
    pack = describe_pack(lengths, padded, device, sharing, [s.parent for s in segments])
    tokens = np.zeros(pack.boundaries[-1], np.int64)
    flat = batch.tokens.numpy()
    stretches = [
        (start, chosen.spans[s.sequence][0] + s.position, s.length)
        for start, s in zip(pack.boundaries, segments if chosen.spans else [], strict=False)
    ]
    for start, first, length in stretches:
        tokens[start : start + length] = flat[first : first + length]
    places, owners, predicted = _every(chosen, pack.boundaries)
    trained = batch.mask.numpy()[predicted] > 0
    held = _Held.of(places[trained], pack.boundaries, cut)
    index = torch.from_numpy(predicted[trained])
    targets = torch.cat([batch.tokens[index][:, None], batch.alternatives[index]], 1)[held.kept].to(torch.int64)
    local = zigzag.local_index(pack.boundaries, cut.context, cut.context_rank).to(device)
    if batch.routes is not None and cut.layers:
        pack = replace(pack, routes=_routes(batch.routes, stretches, pack.boundaries[-1], cut)[local.cpu()].to(device))
    return MicroBatch(
        tokens=torch.from_numpy(tokens).to(device)[local][None],
        positions=pack.positions[local][None],
        pack=pack,
        rows=held.rows.to(device),
        targets=targets.to(device),
        index=index.to(device),
        sequence=torch.from_numpy(owners[trained]).to(device),
        sequences=max(len(chosen.spans), 1),
        places=torch.from_numpy(places).to(device),
        owners=torch.from_numpy(owners).to(device),
        join=None if held.join is None else held.join.to(device),
        room=held.room,
    )


def _routes(routes: Tensor, stretches: Sequence[tuple[int, int, int]], length: int, cut: Cut) -> Tensor:
    """The pack's rows, of this rank's layers; unknown where it is padded. stretches: (place in the pack, place in the
    batch, tokens) of each segment."""
    unknown = -1 if routes.dtype == torch.int16 else 255
    layers = torch.tensor(cut.layers)
    rows = torch.full((length, len(layers), routes.shape[2]), unknown, dtype=routes.dtype)
    for start, first, size in stretches:
        rows[start : start + size] = routes[first : first + size, layers]
    return rows


def _every(chosen: Chosen, boundaries: Sequence[int]) -> tuple[Ints, Ints, Ints]:
    """Of every input token of every sequence, in natural order: where it lies in the pack, whose it is, and where in
    the flat arrays the token is that it predicts."""
    segments = chosen.tree.segments
    none = np.zeros(0, np.int64)
    places, owners, predicted = [none], [none], [none]
    for i, ((start, length), path) in enumerate(zip(chosen.spans, chosen.tree.paths, strict=True)):
        places += [np.arange(boundaries[s], boundaries[s] + segments[s].length) for s in path]
        owners.append(np.full(length - 1, i))
        predicted.append(np.arange(start + 1, start + length))
    found_places, found_owners, found_predicted = (np.concatenate(x) for x in (places, owners, predicted))
    return found_places, found_owners, found_predicted


@dataclass(frozen=True)
class _Held:
    """Of k scored places of a pack, those that this rank of the context ranks has.

    kept: int64 [n], which of the k; rows: int64 [n], where it has them. join, room: see MicroBatch.
    """

    kept: Tensor
    rows: Tensor
    join: Tensor | None
    room: int

    @staticmethod
    def of(places: Ints, boundaries: Sequence[int], cut: Cut) -> "_Held":
        scored = torch.from_numpy(places)
        if cut.context == 1:
            return _Held(torch.arange(len(scored)), scored, None, len(scored))
        owner, row = (torch.empty(boundaries[-1], dtype=torch.int64) for _ in range(2))
        for rank in range(cut.context):
            local = zigzag.local_index(boundaries, cut.context, rank)
            owner[local], row[local] = rank, torch.arange(len(local))
        owners = owner[scored]
        mine = [torch.nonzero(owners == rank)[:, 0] for rank in range(cut.context)]
        room = max(1, *map(len, mine))
        join = torch.empty(len(scored), dtype=torch.int64)
        for rank, own in enumerate(mine):
            join[own] = rank * room + torch.arange(len(own))
        kept = mine[cut.context_rank]
        return _Held(kept, row[scored[kept]], join, room)
