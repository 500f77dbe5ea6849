"""Off-policy diagnostics by hand."""

import math

import pytest
import torch

from penstock.objectives import LossInputs, diagnostics


def test_equal_policies_show_no_mismatch() -> None:
    p = torch.tensor([-1.0, -2.0])
    got = diagnostics.mismatch(p, p, torch.ones(2))
    ratios = {"ratio_p01": 1.0, "ratio_p50": 1.0, "ratio_p99": 1.0}
    assert got == {"mismatch_kl": 0.0, **ratios, "logprob_gap_max": 0.0}


def test_mismatch() -> None:
    """p − g = ln 2 and a masked outlier: k3 = 1 − ln 2."""
    got = diagnostics.mismatch(torch.tensor([math.log(2.0), 50.0]), torch.zeros(2), torch.tensor([1.0, 0.0]))
    assert got["mismatch_kl"] == pytest.approx(1 - math.log(2), abs=1e-6)
    assert got["ratio_p99"] == pytest.approx(2.0)
    assert got["logprob_gap_max"] == pytest.approx(math.log(2))


def test_one_outlier_in_a_hundred_is_the_percentile() -> None:
    p = torch.zeros(100)
    p[17] = 3.0
    assert diagnostics.mismatch(p, torch.zeros(100), torch.ones(100))["ratio_p99"] == pytest.approx(math.exp(3.0))


def test_percentiles_of_the_ratio() -> None:
    p = torch.tensor([-2.0, 0.0, 1.0, 5.0])
    got = diagnostics.mismatch(p, torch.zeros(4), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert (got["ratio_p01"], got["ratio_p50"], got["ratio_p99"]) == pytest.approx((math.exp(-2), 1.0, math.e))


def test_one_token_that_engine_and_learner_disagree_on_shows_in_its_sequence() -> None:
    """A gap of 3 among four tokens: (3 + e³) / 4; masked tokens and empty sequences have no part in it."""
    p = torch.tensor([-3.0, 0.0, 0.0, 0.0, 9.0, 0.0, 9.0])
    sequence = torch.tensor([0, 0, 0, 0, 0, 1, 2])
    mask = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    got = diagnostics.sequence_mismatch(p, torch.zeros(7), mask, sequence, 3)
    assert got.tolist() == pytest.approx([(3 + math.exp(3)) / 4, 1.0, 0.0])


def test_nothing_trained_is_not_a_number() -> None:
    assert math.isnan(diagnostics.mismatch(torch.zeros(1), torch.zeros(1), torch.zeros(1))["mismatch_kl"])


def test_shares_add_up_over_micro_batches() -> None:
    """Weights 2, 0 | 2, 4 with one clipped: (8)² / (4 · 24)."""
    sums: dict[str, float] = {}
    for weight, clipped in (([2.0, 0.0], [True, False]), ([2.0, 4.0], [False, False])):
        zeros, ones = torch.zeros(2), torch.ones(2)
        inputs = LossInputs(zeros, zeros, zeros, zeros, ones, zeros.long(), 1)
        for key, value in diagnostics.additive(inputs, torch.tensor(weight), torch.tensor(clipped)).items():
            sums[key] = sums.get(key, 0.0) + float(value)
    assert diagnostics.shares(sums) == pytest.approx(
        {"clip_share": 0.25, "masked_share": 0.25, "weight_mean": 2.0, "ess_share": 64 / 96}
    )
