"""Which tokens are undecided."""

import pytest
import torch

from penstock.objectives.entropies import undecided


def test_the_share_of_the_largest_entropies_counts() -> None:
    entropy, mask = torch.tensor([0.1, 2.0, 9.0, 0.5, 1.0, 0.2]), torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    assert undecided(entropy, mask, 0.2).tolist() == [0, 1, 0, 0, 0, 0], "an untrained token has no say"
    assert undecided(entropy, mask, 0.4).tolist() == [0, 1, 0, 0, 1, 0]
    assert undecided(entropy, mask, 1.0).tolist() == mask.tolist()
    assert undecided(entropy, mask, 0.01).tolist() == [0, 1, 0, 0, 0, 0], "one is kept"
    assert undecided(entropy, torch.zeros(6), 0.2).tolist() == [0.0] * 6
    with pytest.raises(ValueError, match="share"):
        undecided(entropy, mask, 0.0)
