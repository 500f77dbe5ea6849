"""The loss of a batch does not depend on how it was cut."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from penstock.objectives import normalisations

MASK = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
SEQUENCE = torch.tensor([0, 0, 0, 1, 2, 2, 3])
GROUP = torch.tensor([0, 0, 0, 0, 1, 1, 1])


def weights(name: str, **settings: Any) -> list[float]:
    return normalisations.make(name, **settings)(MASK, SEQUENCE, GROUP).tolist()


def test_token() -> None:
    assert weights("token") == pytest.approx([0.25, 0.25, 0, 0.25, 0, 0, 0.25])


def test_sequence() -> None:
    """Three sequences have trained tokens (2, 1 and 1); the untrained one does not count."""
    assert weights("sequence") == pytest.approx([1 / 6, 1 / 6, 0, 1 / 3, 0, 0, 1 / 3])


def test_prompt() -> None:
    assert weights("prompt") == pytest.approx([1 / 6, 1 / 6, 0, 1 / 6, 0, 0, 1 / 2])


def test_constant() -> None:
    assert weights("constant", max_tokens=10) == pytest.approx([1 / 30, 1 / 30, 0, 1 / 30, 0, 0, 1 / 30])
    with pytest.raises(ValueError, match="max_tokens must be positive"):
        weights("constant", max_tokens=0)


@pytest.mark.parametrize("name", ["token", "sequence", "prompt"])
def test_nothing_trained_gives_zero_not_nan(name: str) -> None:
    got = normalisations.make(name)(torch.zeros(3), torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]))
    assert got.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("name", "settings"), [("token", {}), ("sequence", {}), ("prompt", {})])
@hypothesis_settings(deadline=None)
@given(data=st.data())
def test_a_constant_loss_is_its_own_mean(name: str, settings: dict[str, Any], data: st.DataObject) -> None:
    """Σ w = 1 whenever something is trained: the weights are those of a mean."""
    sequence = torch.tensor(sorted(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=30))))
    mask = torch.tensor(
        data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(sequence), max_size=len(sequence)))
    )
    total = normalisations.make(name, **settings)(mask.double(), sequence, sequence // 2).sum().item()
    assert total == pytest.approx(1.0 if mask.sum() else 0.0)
