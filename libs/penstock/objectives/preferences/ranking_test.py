"""Bradley-Terry over ranked answers against hand-computed values; groups, not pairs, are what is averaged."""

import math

import pytest
import torch

from penstock.objectives.preferences import answer_weights
from penstock.objectives.preferences.ranking import bradley_terry, ranked_pairs


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss(x: float) -> float:
    return math.log1p(math.exp(-x))


TWO_GROUPS = ranked_pairs(f64(2, 1, 0, 0, 1), torch.tensor([7, 7, 7, 3, 3]))
SCORES = f64(0.5, 1.0, -1.0, 0.25, 0.75)


def test_every_two_answers_of_a_group_that_differ_are_a_pair() -> None:
    made = sorted(zip(TWO_GROUPS.better.tolist(), TWO_GROUPS.worse.tolist(), strict=True))
    assert made == [(0, 1), (0, 2), (1, 2), (4, 3)] and TWO_GROUPS.groups == 2


def test_equal_and_almost_equal_answers_are_no_pair() -> None:
    pairs = ranked_pairs(f64(1.0, 1.0, 0.5), torch.tensor([0, 0, 0]), min_margin=0.4)
    assert sorted(zip(pairs.better.tolist(), pairs.worse.tolist(), strict=True)) == [(0, 2), (1, 2)]
    with pytest.raises(ValueError, match="no two of 3 answers differ by more than 0.5"):
        ranked_pairs(f64(1.0, 1.0, 0.5), torch.tensor([0, 0, 0]), min_margin=0.5)


def test_values() -> None:
    first = (loss(-0.5) + loss(1.5) + loss(2.0)) / 3
    by_group = dict(zip((3, 7), bradley_terry(SCORES, TWO_GROUPS).tolist(), strict=True))
    assert by_group == pytest.approx({7: first, 3: loss(0.5)})


def test_equal_scores_cost_ln_2_and_the_margin_is_taken_off_the_difference() -> None:
    pair = ranked_pairs(f64(1, 0), torch.tensor([0, 0]))
    assert bradley_terry(f64(0, 0), pair).item() == pytest.approx(math.log(2))
    assert bradley_terry(f64(1.5, 0.25), pair, margin=0.25).item() == pytest.approx(loss(1.0))


def test_centring_penalises_the_sum_of_the_scores_and_not_their_difference() -> None:
    pair = ranked_pairs(f64(1, 0), torch.tensor([0, 0]))
    apart = bradley_terry(f64(2, -2), pair, centring=0.1).item()
    assert apart == pytest.approx(loss(4.0))
    assert bradley_terry(f64(3, -1), pair, centring=0.1).item() == pytest.approx(apart + 0.1 * 4)


def test_weights_are_the_gradient_of_the_mean_over_groups() -> None:
    """d/ds of −log σ(s_w − s_l) is −σ(s_l − s_w) for the better answer and its negative for the other."""

    def push(x: float) -> float:
        return 1 / (1 + math.exp(x))

    values, weights = answer_weights(lambda s: bradley_terry(s, TWO_GROUPS), SCORES)
    ab, ac, bc, ed = push(-0.5) / 6, push(1.5) / 6, push(2.0) / 6, push(0.5) / 2
    assert weights.tolist() == pytest.approx([-ab - ac, ab - bc, ac + bc, ed, -ed])
    assert values.mean().item() == pytest.approx(bradley_terry(SCORES, TWO_GROUPS).mean().item())


def test_a_gradient_by_finite_differences_with_margin_and_centring() -> None:
    def mean(scores: torch.Tensor) -> torch.Tensor:
        return bradley_terry(scores, TWO_GROUPS, margin=0.3, centring=0.02).mean()

    assert torch.autograd.gradcheck(mean, SCORES.clone().requires_grad_())
