"""A batch cut into packed micro-batches for one rank: which sequences are together, and who runs them.

Inputs are the tokens of each sequence before its last trained one (what stands behind changes nothing), padded to the
layout's alignment, concatenated, and cut zigzag over context ranks. What sequences begin with alike is computed once
where the cut shares: a micro-batch is a tree then (see `penstock.packing.folding`), and its items are groups.
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
    given, computed: input tokens of the samples, and what is left of them when what is equal stands once and what no
      trained token sees is left out; of all data ranks together, without padding.
    unshared: share of what is computed that would not be if what begins alike had gone the same way; None where no
      routes are replayed, or nothing is shared.
    """

    parts: list[MicroBatch]
    described: dict[str, float]
    given: int
    computed: int
    unshared: float | None = None

    def beside(self, other: "Planned") -> "Planned":
        """Both, one after the other; what is said of micro-batches as a mean over them."""
        counts = (len(self.parts), len(other.parts))
        described = {
            name: (value * counts[0] + other.described[name] * counts[1]) / sum(counts)
            for name, value in self.described.items()
        }
        parts = [*self.parts, *other.parts]
        given, computed = self.given + other.given, self.computed + other.computed
        return Planned(parts, described, given, computed, self.unshared)


def plan(batch: Batch, cut: Cut, budget: int, chosen: Tensor | None = None) -> Planned:
    """How the batch is fed to the model; all ranks make the same plan. chosen: bool [N], of which samples; all if None.

    Raises penstock.packing.SequenceTooLong.
    """
    device, host = batch.tokens.device, batch.to(torch.device("cpu"))
    weighing = Weighing(cut.alignment, cut.quadratic)
    ends = _ends(host, cut)
    packing.check_fits([weighing.padded(max(end - 1, 1)) for end in ends], budget)
    own = range(host.sequences) if chosen is None else torch.nonzero(chosen)[:, 0].tolist()
    kept = [i for i in own if ends[i]]
    starts, tokens = host.starts.tolist(), host.tokens.numpy()
    groups = [int(host.groups[i]) for i in kept]
    routed = host.routes is not None and bool(cut.layers) and cut.shares

    def stretches(flat: NDArray[np.integer]) -> list[NDArray[np.integer]]:
        return [flat[starts[i] : starts[i] + ends[i] - 1] for i in kept]

    inputs = stretches(_routed(host) if routed else tokens)
    items = _items(inputs, groups, budget, cut, weighing)
    packs = packing.pack([i.tokens for i in items], budget, ranks=cut.ranks, work=[i.work for i in items])
    bins = [[[items[i] for i in bin_] for bin_ in rank] for rank in packs.micro_batches]
    trees = [[_tree(bin_, inputs, cut, weighing) for bin_ in rank] for rank in bins]
    computed = sum(tree.tokens for rank in trees for tree in rank)
    mine = []
    for bin_, tree in zip(bins[cut.rank], trees[cut.rank], strict=True):
        samples = [kept[i] for item in bin_ for i in item.sequences]
        mine.append(Chosen([(starts[i], ends[i]) for i in samples], tree))
    mine += [NOTHING] * (-len(mine) % cut.round)
    return Planned(
        [build(each, host, cut, device) for each in mine],
        {
            "packing_waste": 1.0 - computed / (packs.per_rank * cut.ranks * budget),
            "packing_imbalance": packs.imbalance([i.work for i in items]),
        },
        sum(int(host.lengths[i]) - 1 for i in own),
        computed,
        _unshared(items, _items(stretches(tokens), groups, budget, cut, weighing)) if routed else None,
    )


def _ends(batch: Batch, cut: Cut) -> list[int]:
    """How many tokens of each sample are wanted: up to the last that is trained, which none stands behind that could
    change anything; all of them where the cut keeps whole samples. 0 of a sample without a trained token."""
    within = np.arange(len(batch.tokens)) - np.repeat(batch.starts.numpy(), batch.lengths.numpy())
    last = np.zeros(batch.sequences, np.int64)
    np.maximum.at(last, batch.sequence_of_token.numpy(), np.where(batch.mask.numpy() > 0, within, 0))
    wanted = batch.lengths.numpy() if cut.keeps_ends else last + 1
    return [int(n) for n in np.where(last > 0, wanted, 0)]


def _routed(batch: Batch) -> NDArray[np.integer]:
    """[T] numbers that are equal where tokens and their routes are: a token that goes another way is computed as
    another, and so is all that sees it."""
    assert batch.routes is not None
    columns = (batch.tokens.numpy()[:, None], batch.routes.flatten(1).numpy())
    parts = np.concatenate([np.ascontiguousarray(each).view(np.uint8) for each in columns], 1)
    numbers: dict[bytes, int] = {}
    seen = parts.view(f"V{parts.shape[1]}")[:, 0].tolist()
    return np.array([numbers.setdefault(each, len(numbers)) for each in seen])


def _unshared(items: list[Item], whole: list[Item]) -> float:
    """whole: the items if all went the same way."""
    computed = sum(item.tokens for item in items)
    return 1.0 - sum(item.tokens for item in whole) / computed if computed else 0.0


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
