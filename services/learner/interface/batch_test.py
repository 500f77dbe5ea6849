"""The batch: checks at its door, selection, and transport that changes no bit."""

from typing import Any

import numpy as np
import pytest
import torch

from services.learner.interface.batch import Batch, InvalidBatch, TrainingSample, broadcast
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.tiny_models import random_batch


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (TrainingSample([1], [0]), "at least 2 tokens"),
        (TrainingSample([1, 2], [1, 1], [0, 0]), "0 at the first token"),
        (TrainingSample([1, 2], [0, 0.5], [0, 0]), "mask must be 0 or 1"),
        (TrainingSample([1, 2], [0, 1, 1], [0, 0]), r"2 tokens, mask \(3,\)"),
        (TrainingSample([1, 2], [0, 1], [0, float("nan")]), "not finite"),
        (TrainingSample([1, 2], [0, 1], [0, 0], signal=float("inf")), "not finite"),
        (TrainingSample([1, 2], [0, 1], [0, 0], group=-1), "group -1"),
    ],
)
def test_a_bad_sample_is_named(sample: TrainingSample, message: str) -> None:
    with pytest.raises(InvalidBatch, match="sample 1: .*" + message):
        Batch.from_samples([TrainingSample([1, 2], [0, 1], [0.0, -1.0]), sample], "advantage")


def test_a_token_is_as_old_as_the_versions_since_it_was_drawn() -> None:
    """Versions newer than the trained one (an engine that is ahead) count as fresh."""
    sample = TrainingSample([1, 2, 3, 4], [0, 1, 1, 1], versions=[0, 3, 5, 9])
    assert Batch.from_samples([sample], "advantage", version=7).age.tolist() == [0.0, 4.0, 2.0, 0.0]
    assert Batch.from_samples([TrainingSample([1, 2], [0, 1])], "advantage", version=7).age.tolist() == [0.0, 0.0]


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(InvalidBatch, match="at least one sample"):
        Batch.from_samples([], "advantage")


def test_what_is_not_trained_may_be_anything() -> None:
    batch = Batch.from_samples(
        [TrainingSample([1, 2, 3], [0, 0, 1], [np.nan, np.inf, -1.0], [np.nan, 7.0, 2.0])], "advantage"
    )
    assert batch.behaviour.tolist() == [0.0, 0.0, -1.0]
    assert batch.signal.tolist() == [0.0, 0.0, 2.0]


def test_what_was_made_for_one_trainer_is_refused_by_another() -> None:
    """Whatever way it has come: a role would else be trained on as an advantage, and nobody would see it."""
    made = random_batch(1, "role")
    moved, (part, _) = made.to(torch.device("cpu")), made.select(torch.tensor([1, 2]))
    for batch in (made, moved, part, *run_ranks(2, _sent)):
        batch.expect("role")
        with pytest.raises(InvalidBatch, match="carry 'role'; this trainer takes 'advantage' alone"):
            batch.expect("advantage")


@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_routes_stay_at_their_tokens_and_are_unknown_where_nobody_recorded_them(kind: type) -> None:
    rows: Any = np.arange(2 * 3 * 2).reshape(2, 3, 2).astype(kind)
    samples = [
        TrainingSample([1, 2], [0, 1], [0, -1.0]),
        TrainingSample([1, 2, 3, 4], [0, 1, 1, 1], [0, -1, -1, -1.0], routes=rows, group=1),
    ]
    batch = Batch.from_samples(samples, "advantage")
    unknown = 255 if kind is np.uint8 else -1
    expected: Any = np.full((6, 3, 2), unknown, kind)
    expected[2:4] = rows
    (part, where) = batch.select(torch.tensor([1, 0]))
    assert batch.routes is not None and part.routes is not None
    assert np.array_equal(batch.routes.numpy(), expected) and np.array_equal(part.routes.numpy(), expected[where])
    assert batch.routes_known == 2 / 4
    for sent in run_ranks(2, _routed, samples):
        assert sent.dtype == batch.routes.dtype and torch.equal(sent, batch.routes)
    assert Batch.from_samples(samples[:1], "advantage").routes is None
    wrong: Any
    for wrong in (rows[:, :2], rows.astype(np.int32), np.zeros((4, 3, 2), kind)):
        bad = TrainingSample([1, 2, 3, 4], [0, 1, 1, 1], [0, -1, -1, -1.0], routes=wrong)
        with pytest.raises(InvalidBatch, match="sample 1: 4 tokens, routes"):
            Batch.from_samples([samples[1], bad], "advantage")


def _routed(samples: list[TrainingSample]) -> torch.Tensor:
    made = Batch.from_samples(samples, "advantage") if torch.distributed.get_rank() == 0 else None
    routes = broadcast(made, torch.device("cpu")).routes
    assert routes is not None
    return routes


def _sent() -> Batch:
    made = random_batch(1, "role") if torch.distributed.get_rank() == 0 else None
    received = broadcast(made, torch.device("cpu"))
    return received.select(torch.arange(received.sequences))[0]


def test_select_keeps_whole_sequences_and_says_where_they_were() -> None:
    batch = Batch.from_samples(
        [TrainingSample([i] * (i + 2), [0] + [1] * (i + 1), group=i) for i in range(4)], "advantage"
    )
    part, where = batch.select(torch.tensor([3, 1]))
    assert part.tokens.tolist() == [3] * 5 + [1] * 3
    assert part.groups.tolist() == [3, 1]
    assert torch.equal(batch.tokens[where], part.tokens)
    assert part.sequence_of_token.tolist() == [0] * 5 + [1] * 3


def _round_trip() -> list[torch.Tensor]:
    rank = torch.distributed.get_rank()
    received = broadcast(random_batch(4) if rank == 0 else None, torch.device("cpu"))
    return [column.clone() for column in received._columns()]


def test_broadcast_is_bitwise() -> None:
    for received in run_ranks(2, _round_trip):
        for ours, theirs in zip(random_batch(4)._columns(), received, strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
