"""BCO: a classifier of good and bad answers, with the mean reward as its threshold."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


@preference_losses("bco")
def bco(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ℓ = −log σ(βδ_w − z) − log σ(z − βδ_l), δ = c − r of an answer, z the mean of βδ over the batch's answers.

    z carries no gradient; the paper takes a moving average of it. Source: BCO (Jung et al. 2024, eq. 8 and 9).
    """
    chosen, rejected = beta * pairs.chosen_gain, beta * pairs.rejected_gain
    threshold = torch.cat([chosen, rejected]).mean().detach()
    return -logsigmoid(chosen - threshold) - logsigmoid(threshold - rejected)
