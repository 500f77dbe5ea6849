"""Off-policy weights against hand-computed values."""

import math

import pytest
import torch

from penstock.objectives import LossInputs, off_policy_corrections


def weights(name, ratios, sequence=None, mask=None, **settings):
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


def test_none():
    assert weights("none", [0.1, 9.0]) == [1.0, 1.0]


def test_tis_truncates_above_only():
    assert weights("tis", [0.1, 1.5, 9.0]) == [0.1, 1.5, 2.0]


def test_icepop_drops_outside_and_keeps_the_ratio_inside():
    assert weights("icepop", [0.4, 0.6, 4.0, 6.0]) == [0.0, 0.6, 4.0, 0.0]


def test_mis_token_keeps_or_drops():
    assert weights("mis_token", [0.4, 0.6, 1.9, 2.1]) == [0.0, 1.0, 1.0, 0.0]


def test_the_sequence_gate_is_a_geometric_mean():
    """A product of 200 ratios of 1.01 is 7.3, above any sensible bound; their geometric mean is 1.01."""
    assert weights("mis_sequence", [1.01] * 200, [0] * 200) == [1.0] * 200
    assert weights("mis_sequence", [4.0, 0.25, 3.0, 3.0], [0, 0, 1, 1]) == [1.0, 1.0, 0.0, 0.0]


def test_seq_mask_tis_gates_sequences_and_weights_tokens():
    assert weights("seq_mask_tis", [4.0, 0.25, 3.0, 3.0], [0, 0, 1, 1]) == [2.0, 0.25, 0.0, 0.0]


def test_masked_tokens_do_not_vote_in_the_sequence_gate():
    assert weights("mis_sequence", [1.0, 1e6], [0, 0], mask=[1.0, 0.0]) == [1.0, 1.0]


def test_bounds_are_checked():
    with pytest.raises(ValueError, match="low < high"):
        weights("icepop", [1.0], low=2.0, high=1.0)
