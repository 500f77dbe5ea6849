"""A batch cut into packed micro-batches for one rank: which sequences are together, and who runs them.

Inputs are tokens 0 … L−2 of each sequence (the last one predicts nothing), padded to the layout's alignment,
concatenated, and cut zigzag over context ranks. What sequences begin with alike is computed once where the cut shares:
a micro-batch is a tree then (see `penstock.packing.folding`), and its items are groups.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock import packing
from penstock.packing import Item, Tree, Weighing
from services.learner.backends.packing.building import NOTHING, Chosen, Cut, MicroBatch, build
from services.learner.interface.batch import Batch


@dataclass(frozen=True)
class Planned:
    """Attributes:
    parts: this rank's micro-batches, equally many on every rank.
    described: `packing_waste`, share of the budgeted tokens of all micro-batches that carry nothing, padding included;
      `packing_imbalance`, work of the busiest data rank over the mean of all, 1 where it is equal.
    given, computed: tokens of the batch, and what is left of them when what is equal stands once, on all data ranks
      together and without padding.
    """

    parts: list[MicroBatch]
    described: dict[str, float]
    given: int
    computed: int

    def beside(self, other: "Planned") -> "Planned":
        """Both, one after the other; what is said of micro-batches as a mean over them."""
        counts = (len(self.parts), len(other.parts))
        described = {
            name: (value * counts[0] + other.described[name] * counts[1]) / sum(counts)
            for name, value in self.described.items()
        }
        parts = [*self.parts, *other.parts]
        return Planned(parts, described, self.given + other.given, self.computed + other.computed)


def plan(batch: Batch, cut: Cut, budget: int, chosen: Tensor | None = None) -> Planned:
    """How the batch is fed to the model; all ranks make the same plan. chosen: bool [N], of which samples; all if None.

    Raises penstock.packing.SequenceTooLong.
    """
    device, host = batch.tokens.device, batch.to(torch.device("cpu"))
    flat = host.tokens.numpy()
    spans = list(zip(host.starts.tolist(), host.lengths.tolist(), strict=True))
    groups = host.groups.tolist()
    if chosen is not None:
        spans, groups = ([x for x, own in zip(xs, chosen.tolist(), strict=True) if own] for xs in (spans, groups))
    inputs = [flat[start : start + length - 1] for start, length in spans]
    weighing = Weighing(cut.alignment, cut.quadratic)
    items = _items(inputs, groups, budget, cut, weighing)
    packs = packing.pack([i.tokens for i in items], budget, ranks=cut.ranks, work=[i.work for i in items])
    chosen = [[[items[i] for i in bin_] for bin_ in rank] for rank in packs.micro_batches]
    trees = [[_tree(own, inputs, cut, weighing) for own in rank] for rank in chosen]
    computed = sum(tree.tokens for rank in trees for tree in rank)
    mine = [
        Chosen([spans[i] for item in own for i in item.sequences], tree)
        for own, tree in zip(chosen[cut.rank], trees[cut.rank], strict=True)
    ]
    mine += [NOTHING] * (-len(mine) % cut.round)
    return Planned(
        [build(own, host, cut, device) for own in mine],
        {
            "packing_waste": 1.0 - computed / (packs.per_rank * cut.ranks * budget),
            "packing_imbalance": packs.imbalance([i.work for i in items]),
        },
        sum(map(len, inputs)),
        computed,
    )


def _items(
    inputs: list[NDArray[np.integer]], groups: list[int], budget: int, cut: Cut, weighing: Weighing
) -> list[Item]:
    if cut.shares:
        return packing.together(inputs, groups, budget, cut.ranks, weighing)
    return packing.alone([len(tokens) for tokens in inputs], weighing)


def _tree(items: list[Item], inputs: list[NDArray[np.integer]], cut: Cut, weighing: Weighing) -> Tree:
    if cut.shares:
        return packing.tree_of(items, inputs, weighing)
    sequences = [inputs[i] for item in items for i in item.sequences]
    return weighing.fold(sequences, range(len(sequences)))
