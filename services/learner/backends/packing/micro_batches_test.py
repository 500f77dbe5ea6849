"""A plan feeds every trained token to the model once, behind what stands before it in its own sample, under any cut."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from penstock import packing
from services.learner.backends.packing.building import Cut, MicroBatch
from services.learner.backends.packing.micro_batches import Planned, plan
from services.learner.backends.packing.zigzag import local_index
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.testing.tiny_models import random_batch

CUTS = {
    "one": Cut(1, 0),
    "three data ranks": Cut(3, 0),
    "padded, in rounds": Cut(2, 0, alignment=4, round=2),
    "context ranks": Cut(1, 0, context=2, alignment=4),
    "context ranks with heads": Cut(2, 0, context=2, alignment=8, whole=True),
}


def plans(batch: Batch, cut: Cut, budget: int = 80) -> list[list[Planned]]:
    """Of every data rank, those of its context ranks."""
    return [
        [plan(batch, replace(cut, rank=rank, context_rank=c), budget) for c in range(cut.context)]
        for rank in range(cut.ranks)
    ]


def whole(parts: list[MicroBatch]) -> torch.Tensor:
    """The tokens of a pack of which context ranks have a part each, in natural order."""
    found = torch.empty(parts[0].pack.boundaries[-1], dtype=torch.int64)
    for rank, part in enumerate(parts):
        found[local_index(part.pack.boundaries, len(parts), rank)] = part.tokens[0]
    return found


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("cut", CUTS)
def test_every_trained_token_is_scored_once(cut: str, shares: bool) -> None:
    batch = random_batch(1)
    scored: Counter[int] = Counter()
    for ranks in plans(batch, replace(CUTS[cut], shares=shares)):
        for part in ranks[0].parts:
            scored.update(part.index.tolist())
    assert scored == Counter(torch.nonzero(batch.mask)[:, 0].tolist())


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("cut", CUTS)
def test_rows_stand_behind_their_sample_and_predict_its_token(cut: str, shares: bool) -> None:
    """What all context ranks find at their rows, joined, is of the pack's trained tokens in their order."""
    batch = random_batch(2)
    starts, sequence_of = batch.starts, batch.sequence_of_token
    for ranks in plans(batch, replace(CUTS[cut], shares=shares)):
        for parts in zip(*(planned.parts for planned in ranks), strict=True):
            found = []
            for part in parts:
                said = torch.stack([part.tokens[0][part.rows], part.positions[0][part.rows], part.targets[:, 0]], 1)
                found.append(torch.cat([said, said.new_zeros(part.room - len(said), 3)]))
            joined = torch.cat(found)
            if parts[0].join is not None:
                joined = joined[parts[0].join]
            index = parts[0].index
            position = index - starts[sequence_of[index]] - 1
            expected = torch.stack([batch.tokens[index - 1], position, batch.tokens[index]], 1)
            assert torch.equal(joined, expected.to(torch.int64))


@pytest.mark.parametrize("cut", CUTS)
def test_all_tokens_of_all_samples_are_in_their_places(cut: str) -> None:
    batch = random_batch(3)
    seen: Counter[tuple[int, ...]] = Counter()
    for ranks in plans(batch, replace(CUTS[cut], shares=True, keeps_ends=True)):
        for parts in zip(*(planned.parts for planned in ranks), strict=True):
            tokens = whole(list(parts))[parts[0].places]
            sizes = torch.bincount(parts[0].owners, minlength=parts[0].sequences).tolist()
            seen.update(tuple(t.tolist()) for t in tokens.split(sizes) if len(t))
    sizes = batch.lengths.tolist()
    samples = zip(batch.tokens.long().split(sizes), batch.mask.split(sizes), strict=True)
    assert seen == Counter(tuple(t[:-1].tolist()) for t, mask in samples if mask.any())


@pytest.mark.parametrize("shares", [True, False])
def test_what_no_trained_token_sees_is_not_computed(shares: bool) -> None:
    masks = ([0, 1, 1, 0, 0, 0, 1, 0, 0, 0], [0, 1] + [0] * 8, [0] * 10)
    samples = [TrainingSample([20 * i + t for t in range(10)], m, [-1.0] * 10, 1.0, i) for i, m in enumerate(masks)]
    planned = plan(Batch.from_samples(samples, "advantage"), Cut(1, 0, shares=shares), 100)
    (part,) = planned.parts
    assert sorted(part.tokens[0].tolist()) == [0, 1, 2, 3, 4, 5, 20] and part.sequences == 2
    assert (planned.given, planned.computed) == (27, 7)


def test_what_is_equal_is_computed_once() -> None:
    """Four answers of 5 tokens to a prompt of 20, in pairs that begin alike for 8 more: of 4 · 32 inputs
    20 + 2 · 8 + 4 · 4."""
    prompt, pair = list(range(20)), [[30 + t for t in range(8)], [40 + t for t in range(8)]]
    mask, behaviour = [0] * 20 + [1] * 13, [-1.0] * 33
    samples = [TrainingSample([*prompt, *pair[i // 2], *[50 + i] * 5], mask, behaviour, 1.0, 7) for i in range(4)]
    batch = Batch.from_samples(samples, "advantage")
    planned = plan(batch, Cut(1, 0, shares=True), 1000)
    assert (planned.given, planned.computed) == (4 * 32, 20 + 2 * 8 + 4 * 4)
    (part,) = planned.parts
    assert part.tokens.shape == (1, 52) and len(part.rows) == 4 * 13
    assert len(part.rows.unique()) < len(part.rows), "first tokens of answers come from one position"
    assert planned.described["packing_waste"] == pytest.approx(1 - 52 / 1000)
    apart = plan(batch, Cut(1, 0), 1000)
    assert apart.given == apart.computed == 128 and not apart.parts[0].pack.parts


def test_a_sample_is_not_refused_because_it_was_not_shared() -> None:
    """A group that is three times the budget; and one sample that is larger than it by itself."""
    samples = [TrainingSample([*range(50), *[60 + i] * 41], [0] * 50 + [1] * 41, [-1.0] * 91, 1.0, 7) for i in range(6)]
    planned = plan(Batch.from_samples(samples, "advantage"), Cut(1, 0, shares=True), 130)
    assert [part.sequences for part in planned.parts] == [2, 2, 2]
    with pytest.raises(packing.SequenceTooLong, match="sequence 0 has 90 tokens"):
        plan(Batch.from_samples(samples, "advantage"), Cut(1, 0, shares=True), 80)
