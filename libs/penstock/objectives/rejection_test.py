"""What is rejected, against hand-computed distances."""

import math
from typing import Any

import pytest
import torch

from penstock.objectives import LossInputs, rejection


def kept(by: str, ratios: list[float], low: float, high: float, mask: list[float] | None = None) -> Any:
    """Of two answers of two tokens whose exp(p − g) is given."""
    x = LossInputs(
        current=torch.zeros(4, requires_grad=True),
        proximal=torch.tensor([math.log(r) - 2.0 for r in ratios]),
        behaviour=torch.full((4,), -2.0),
        advantage=torch.ones(4),
        mask=torch.tensor(mask or [1.0] * 4),
        sequence=torch.tensor([0, 0, 1, 1]),
        sequences=2,
    )
    return rejection.kept(x, by, low=low, high=high).tolist()


RATIOS = [1.5, 2.0, 0.9, 0.8]
"""Logs .405, .693, −.105, −.223; k2 .082, .240, .0056, .0249; k3 .0945, .307, .0054, .0231."""


@pytest.mark.parametrize(
    ("by", "low", "high", "expected"),
    [
        ("token_k1", 0.85, 1.9, [1, 0, 1, 0]),
        ("token_k2", 0.0, 0.2, [1, 0, 1, 1]),
        ("token_k3", 0.0, 0.02, [0, 0, 1, 0]),
        ("sum_k1", 0.5, 2.9, [0, 0, 1, 1]),  # 3, .72
        ("sum_k1", 0.75, 3.1, [1, 1, 0, 0]),
        ("mean_k1", 0.5, 1.7, [0, 0, 1, 1]),  # 1.732, .849
        ("mean_k1", 0.86, 1.8, [1, 1, 0, 0]),
        ("sum_k2", 0.0, 0.32, [0, 0, 1, 1]),  # .3224, .0305
        ("sum_k2", 0.0, 0.33, [1, 1, 1, 1]),
        ("mean_k2", 0.0, 0.0152, [0, 0, 0, 0]),  # .161, .0152+
        ("mean_k2", 0.0, 0.017, [0, 0, 1, 1]),
        ("sum_k3", 0.0, 0.0285, [0, 0, 0, 0]),  # .4014, .02850+
        ("sum_k3", 0.0, 0.41, [1, 1, 1, 1]),
        ("mean_k3", 0.0, 0.2, [0, 0, 1, 1]),
        ("max_k2", 0.0, 0.23, [0, 0, 1, 1]),
        ("max_k3", 0.0, 0.31, [1, 1, 1, 1]),
        ("max_k3", 0.0, 0.3, [0, 0, 1, 1]),
    ],
)
def test_every_form(by: str, low: float, high: float, expected: list[int]) -> None:
    assert kept(by, RATIOS, low, high) == expected


def test_untrained_tokens_do_not_vote() -> None:
    for by in rejection.REJECTIONS:
        if not by.startswith("token"):
            assert kept(by, [1.0, 1e6, 1.0, 1.0], 0.5, 2.0, mask=[1, 0, 1, 1]) == [1, 1, 1, 1], by


def test_wrong_words_and_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown rejection 'max_k1'; valid: token_k1"):
        kept("max_k1", RATIOS, 0.5, 2.0)
    with pytest.raises(ValueError, match="low < high"):
        kept("token_k1", RATIOS, 2.0, 2.0)
