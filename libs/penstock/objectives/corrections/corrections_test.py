"""Off-policy weights against hand-computed values."""

import math
from typing import Any

import pytest
import torch

from penstock.objectives import LossInputs, corrections, off_policy_corrections


def weights(
    name: str, ratios: list[float], sequence: list[int] | None = None, mask: list[float] | None = None, **settings: Any
) -> Any:
    """Weights for tokens whose exp(p − g) is given."""
    n = len(ratios)
    sequence = sequence or list(range(n))
    x = LossInputs(
        current=torch.zeros(n, requires_grad=True),
        proximal=torch.tensor([math.log(r) - 2.0 for r in ratios], requires_grad=True),
        behaviour=torch.full((n,), -2.0),
        advantage=torch.ones(n),
        mask=torch.tensor(mask or [1.0] * n),
        sequence=torch.tensor(sequence),
        sequences=max(sequence) + 1,
    )
    result = off_policy_corrections.make(name, **settings)(x)
    assert not result.requires_grad, "a correction weight must not carry a gradient"
    return pytest.approx(result.tolist(), rel=1e-5)


def test_none() -> None:
    assert weights("none", [0.1, 9.0]) == [1.0, 1.0]


def test_tis_truncates_above_only() -> None:
    assert weights("tis", [0.1, 1.5, 9.0]) == [0.1, 1.5, 2.0]


def test_icepop_drops_outside_and_keeps_the_ratio_inside() -> None:
    assert weights("icepop", [0.4, 0.6, 4.0, 6.0]) == [0.0, 0.6, 4.0, 0.0]


def test_mis_token_keeps_or_drops() -> None:
    assert weights("mis_token", [0.4, 0.6, 1.9, 2.1]) == [0.0, 1.0, 1.0, 0.0]


def test_the_sequence_gate_is_a_geometric_mean() -> None:
    """A product of 200 ratios of 1.01 is 7.3, above any sensible bound; their geometric mean is 1.01."""
    assert weights("mis_sequence", [1.01] * 200, [0] * 200) == [1.0] * 200
    assert weights("mis_sequence", [4.0, 0.25, 3.0, 3.0], [0, 0, 1, 1]) == [1.0, 1.0, 0.0, 0.0]


def test_seq_mask_tis_gates_sequences_and_weights_tokens() -> None:
    assert weights("seq_mask_tis", [4.0, 0.25, 3.0, 3.0], [0, 0, 1, 1]) == [2.0, 0.25, 0.0, 0.0]


def test_masked_tokens_do_not_vote_in_the_sequence_gate() -> None:
    assert weights("mis_sequence", [1.0, 1e6], [0, 0], mask=[1.0, 0.0]) == [1.0, 1.0]


def test_bounds_are_checked() -> None:
    with pytest.raises(ValueError, match="low < high"):
        weights("icepop", [1.0], low=2.0, high=1.0)


def test_opsm_drops_bad_sequences_that_the_policy_being_trained_has_left() -> None:
    """mean(g − c) is 0.69 where every token became half as likely: dropped only where the advantage is negative. What
    the policy was before the step has no say."""

    def of(advantage: float, moved: float) -> Any:
        x = LossInputs(
            current=torch.full((2,), math.log(moved) - 2.0, requires_grad=True),
            proximal=torch.full((2,), -9.0),
            behaviour=torch.full((2,), -2.0),
            advantage=torch.full((2,), advantage),
            mask=torch.ones(2),
            sequence=torch.tensor([0, 0]),
            sequences=1,
        )
        usual, lenient = off_policy_corrections.make("opsm")(x), off_policy_corrections.make("opsm", limit=0.7)(x)
        assert not usual.requires_grad
        return usual.tolist(), lenient.tolist()

    assert of(-1.0, 0.5) == ([0.0, 0.0], [1.0, 1.0])
    assert of(1.0, 0.5) == ([1.0, 1.0], [1.0, 1.0])
    assert of(-1.0, 0.7) == ([1.0, 1.0], [1.0, 1.0])


def test_tis_sequence_weighs_answers_by_the_product_of_their_ratios() -> None:
    assert weights("tis_sequence", [1.5, 1.2, 0.1, 0.5, 3.0], [0, 0, 1, 1, 2]) == [1.8, 1.8, 0.05, 0.05, 2.0]
    assert weights("tis_sequence", [0.1, 0.5, 3.0], [0, 0, 1], low=0.3, cap=2.5) == [0.3, 0.3, 2.5]
    assert weights("tis_sequence", [1.5, 9.0], [0, 0], mask=[1.0, 0.0]) == [1.5, 1.5], "untrained tokens do not vote"
    with pytest.raises(ValueError, match="low < cap"):
        weights("tis_sequence", [1.0], low=2.0)


def test_icepop_sequence_keeps_or_drops_whole_answers() -> None:
    assert weights("icepop_sequence", [1.5, 1.2, 0.1, 0.5, 3.1], [0, 0, 1, 1, 2]) == [1.8, 1.8, 0.05, 0.05, 0.0]
    assert weights("icepop_sequence", [0.1, 0.5, 3.1], [0, 0, 1], low=0.1, high=4.0) == [0.0, 0.0, 3.1]


def test_weights_of_a_mean_of_one() -> None:
    """(1, 3) in one answer and (2) in another, an untrained token beside them: over tokens the mean is 2, over answers
    too; (1, 3) and (5): 3 and 3.5."""
    mean_one = corrections.mean_one.mean_one

    def of(values: list[float], over: str) -> Any:
        n = len(values) - 1
        untouched = torch.zeros(n + 1)
        x = LossInputs(
            current=untouched,
            proximal=untouched,
            behaviour=untouched,
            advantage=untouched,
            mask=torch.tensor([1.0] * n + [0.0]),
            sequence=torch.tensor([0, 0, 1, 1]),
            sequences=3,
        )
        return pytest.approx((mean_one(torch.tensor(values), x, over)[:n] * 10).tolist())

    assert of([1.0, 3.0, 2.0, 99.0], "tokens") == [5.0, 15.0, 10.0]
    assert of([1.0, 3.0, 5.0, 99.0], "tokens") == [10 / 3, 10.0, 50 / 3]
    assert of([1.0, 3.0, 5.0, 99.0], "answers") == [10 / 3.5, 30 / 3.5, 50 / 3.5]
    assert of([0.0, 0.0, 0.0, 9.0], "answers") == [0.0, 0.0, 0.0]


def test_m2po_drops_the_fewest_tokens_that_carry_the_second_moment() -> None:
    """Squares .01, .09, 4 (in another order): .01 alone has mean .01; with .09 it is .05 > .04."""
    ratios = [math.exp(0.3), math.exp(-0.1), math.exp(2.0)]
    assert weights("m2po", ratios) == [0.0, 1.0, 0.0]
    assert weights("m2po", ratios, limit=0.05) == [1.0, 1.0, 0.0]
    assert weights("m2po", [1.0, 1.0, 1.0]) == [1.0, 1.0, 1.0]
    assert weights("m2po", ratios, mask=[1.0, 0.0, 1.0], limit=0.1) == [1.0, 0.0, 0.0], "untrained tokens do not vote"
