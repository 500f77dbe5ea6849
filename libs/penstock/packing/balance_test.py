"""What every plan must satisfy, for any lengths."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.packing import Plan, SequenceTooLong, pack, work_of

CASES = {
    "lengths": st.lists(st.integers(1, 64), max_size=80),
    "budget": st.integers(64, 300),
    "ranks": st.integers(1, 5),
    "multiple": st.integers(1, 3),
    "quadratic": st.sampled_from([0.0, 0.01, 1.0]),
}


@settings(deadline=None)
@given(**CASES)
def test_every_sequence_exactly_once(
    lengths: list[int], budget: int, ranks: int, multiple: int, quadratic: float
) -> None:
    plan = pack(lengths, budget, ranks, multiple, quadratic)
    assert sorted(i for rank in plan.micro_batches for b in rank for i in b) == list(range(len(lengths)))


@settings(deadline=None)
@given(**CASES)
def test_budget_kept(lengths: list[int], budget: int, ranks: int, multiple: int, quadratic: float) -> None:
    plan = pack(lengths, budget, ranks, multiple, quadratic)
    assert all(sum(lengths[i] for i in b) <= budget for rank in plan.micro_batches for b in rank)


@settings(deadline=None)
@given(**CASES)
def test_equal_counts_on_all_ranks(
    lengths: list[int], budget: int, ranks: int, multiple: int, quadratic: float
) -> None:
    plan = pack(lengths, budget, ranks, multiple, quadratic)
    assert len(plan.micro_batches) == ranks
    assert {len(rank) for rank in plan.micro_batches} == {plan.per_rank}
    assert plan.per_rank >= 1 and plan.per_rank % multiple == 0


@settings(deadline=None)
@given(**CASES)
def test_empty_micro_batches_only_when_sequences_are_scarce(
    lengths: list[int], budget: int, ranks: int, multiple: int, quadratic: float
) -> None:
    plan = pack(lengths, budget, ranks, multiple, quadratic)
    bins = [b for rank in plan.micro_batches for b in rank]
    assert len(lengths) < len(bins) or all(bins)


@settings(deadline=None)
@given(**CASES)
def test_no_more_micro_batches_than_first_fit_decreasing_guarantees(
    lengths: list[int], budget: int, ranks: int, multiple: int, quadratic: float
) -> None:
    """FFD needs at most 11/9 of the optimum plus one bin; rounding up to ranks × multiple adds the rest."""
    plan = pack(lengths, budget, ranks, multiple, quadratic)
    step = ranks * multiple
    assert plan.per_rank * ranks < 11 / 9 * 2 * (sum(lengths) / budget + 1) + 1 + step


def waste(plan: Plan, lengths: list[int], budget: int) -> float:
    """Share of the budgeted tokens (micro-batches × budget) that carries no sequence."""
    return 1.0 - sum(lengths) / (plan.per_rank * len(plan.micro_batches) * budget)


@settings(deadline=None)
@given(**CASES)
def test_waste_is_a_share(lengths: list[int], budget: int, ranks: int, multiple: int, quadratic: float) -> None:
    plan = pack(lengths, budget, ranks, multiple, quadratic)
    assert 0.0 <= waste(plan, lengths, budget) <= 1.0
    assert plan.imbalance(work_of(lengths, quadratic)) >= 1.0 - 1e-9 or not lengths


def test_worked_example() -> None:
    plan = pack([9, 4, 4, 1], budget=10)
    assert plan.micro_batches == [[[0], [1, 2, 3]]]
    assert waste(plan, [9, 4, 4, 1], 10) == pytest.approx(0.1)


def test_equal_lengths_are_spread_evenly() -> None:
    plan = pack([10] * 8, budget=1000, ranks=4)
    assert plan.imbalance([10] * 8) == 1.0


def test_ranks_have_equal_work_where_attention_makes_it_unequal_to_tokens() -> None:
    """One sequence of 64 costs what 16 of 8 do when its attention is four times the rest; by tokens it would be 8."""
    lengths, quadratic = [64] + [8] * 40, 4 / 64
    work = work_of(lengths, quadratic)
    assert (work[0], work[1]) == (320.0, 12.0)
    aware = pack(lengths, 400, 2, quadratic=quadratic).imbalance(work)
    assert aware < 1.05 < pack(lengths, 400, 2).imbalance(work)


def test_a_sequence_over_the_budget_is_named() -> None:
    with pytest.raises(SequenceTooLong, match="sequence 1 has 11 tokens, but a micro-batch holds at most 10"):
        pack([3, 11], budget=10)
