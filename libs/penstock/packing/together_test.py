"""What stays together fits, is whole, and costs no rank more than it saves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.packing import SequenceTooLong, Weighing, alone, fold, pack, together, tree_of, work_of

Sequences = list[NDArray[np.int32]]


def batch(seed: int, groups: int) -> tuple[Sequences, list[int]]:
    """Groups of one to eight answers to a prompt of up to 40 tokens, of which 12 are every group's."""
    rng = np.random.default_rng(seed)
    system = rng.integers(0, 9, 12)
    sequences, ids = [], []
    for group in range(groups):
        prompt = np.concatenate([system, rng.integers(0, 9, int(rng.integers(0, 29)))])
        for _ in range(int(rng.integers(1, 9))):
            answer = rng.integers(0, 9, int(rng.integers(1, 21)))
            sequences.append(np.concatenate([prompt, answer]).astype(np.int32))
            ids.append(group)
    return sequences, ids


CASES = {
    "seed": st.integers(0, 1000),
    "groups": st.integers(1, 9),
    "budget": st.integers(64, 300),
    "ranks": st.integers(1, 5),
    "weighing": st.builds(Weighing, st.sampled_from([1, 4, 16]), st.sampled_from([0.0, 0.01])),
}


@settings(deadline=None)
@given(**CASES)
def test_every_sequence_is_in_one_item_and_every_item_fits(
    seed: int, groups: int, budget: int, ranks: int, weighing: Weighing
) -> None:
    """And what the items of a micro-batch share among each other makes it no larger, padding included."""
    sequences, ids = batch(seed, groups)
    items = together(sequences, ids, budget, ranks, weighing)
    assert sorted(i for item in items for i in item.sequences) == list(range(len(sequences)))
    assert all(item.tokens <= budget for item in items)
    plan = pack([item.tokens for item in items], budget, ranks, work=[item.work for item in items])
    for chosen in (b for rank in plan.micro_batches for b in rank):
        tree = tree_of([items[item] for item in chosen], sequences, weighing)
        assert weighing.tokens(tree) <= sum(items[item].tokens for item in chosen) <= budget
        assert len(tree.paths) == sum(len(items[item].sequences) for item in chosen)


@settings(deadline=None)
@given(**CASES)
def test_sharing_adds_no_work(seed: int, groups: int, budget: int, ranks: int, weighing: Weighing) -> None:
    sequences, ids = batch(seed, groups)
    apart = alone([len(s) for s in sequences], weighing)
    shared = together(sequences, ids, budget, ranks, weighing)
    assert sum(i.tokens for i in shared) <= sum(i.tokens for i in apart)
    assert sum(i.work for i in shared) <= sum(i.work for i in apart) * (1 + 1e-9)


def test_a_tree_of_one_sequence_costs_what_the_sequence_does() -> None:
    """Whatever it is cut into: 30 tokens of which 10 are shared, with themselves."""
    weighing, sequences = Weighing(quadratic=0.5), [np.arange(30), np.concatenate([np.arange(10), np.arange(50, 70)])]
    tree = fold(sequences)
    (whole,) = work_of([30], 0.5)
    (shared,) = work_of([10], 0.5)
    assert weighing.work(tree) == pytest.approx(2 * whole - shared)


def test_nothing_is_in_no_item() -> None:
    assert together([], [], 10, 2, Weighing()) == []


def test_sequences_that_share_nothing_are_items_of_their_own() -> None:
    sequences = [np.full(20, i) for i in range(6)]
    items = together(sequences, [0] * 6, 1000, 1, Weighing())
    assert items == alone([20] * 6, Weighing())


def test_a_group_too_large_is_cut_and_its_prompt_repeated() -> None:
    sequences = [np.concatenate([np.arange(50), np.full(10, 100 + i)]) for i in range(8)]
    items = together(sequences, [0] * 8, 100, 1, Weighing())
    assert [item.tokens for item in items] == [90, 90]
    thirds = together(sequences[:6], [0] * 6, 70, 1, Weighing())
    assert [item.tokens for item in thirds] == [70, 70, 70], "into as few as fit"


def test_no_rank_waits_for_a_group_that_two_could_share() -> None:
    """Two groups of eight long answers on four ranks."""
    sequences = [np.concatenate([np.full(10, i // 8), np.full(90, 100 + i)]) for i in range(16)]
    items = together(sequences, [i // 8 for i in range(16)], 1000, 4, Weighing())
    plan = pack([i.tokens for i in items], 1000, 4)
    assert [i.tokens for i in items] == [370] * 4 and plan.imbalance([i.work for i in items]) == 1.0


def test_a_prompt_too_long_to_be_worth_repeating_is_not() -> None:
    """Both ranks would have nearly what one has."""
    sequences = [np.concatenate([np.arange(900), np.full(10, 2000 + i)]) for i in range(4)]
    assert len(together(sequences, [0] * 4, 1000, 2, Weighing())) == 1


def test_a_sequence_over_the_budget_is_named() -> None:
    with pytest.raises(SequenceTooLong, match="sequence 1 has 11 tokens, but a micro-batch holds at most 10"):
        together([np.arange(3), np.arange(11)], [0, 0], 10, 1, Weighing())


@pytest.mark.parametrize(
    ("prompt", "answers", "budget", "ranks"),
    [(16, (200, 400), 4096, 1), (100, (200, 400), 4096, 1), (100, (500, 600), 8192, 1), (16, (200, 400), 4096, 4)],
)
def test_large_groups_leave_no_gaps_that_cost_micro_batches(
    prompt: int, answers: tuple[int, int], budget: int, ranks: int
) -> None:
    rng = np.random.default_rng(0)
    sequences, ids = list[NDArray[np.int32]](), list[int]()
    for group in range(32):
        begin = rng.integers(0, 1000, prompt)
        for _ in range(8):
            answer = rng.integers(0, 1000, int(rng.integers(*answers)))
            sequences.append(np.concatenate([begin, answer]).astype(np.int32))
            ids.append(group)
    weighing = Weighing(1, 0.0)
    shared = together(sequences, ids, budget, ranks, weighing)
    apart = pack([len(s) for s in sequences], budget, ranks)
    assert pack([i.tokens for i in shared], budget, ranks).per_rank <= apart.per_rank
