"""ORPO: likelihood and preference at once, no reference."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from penstock.objectives.preferences.pairs import Pairs
from penstock.objectives.registry import preference_losses


@preference_losses("orpo")
def orpo(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """ℓ = −c̄_w − β log σ(odds_w − odds_l), odds = c̄ − log(1 − e^c̄); no reference: likelihood and preference at once.

    Source: ORPO (Hong et al. 2024, eq. 6 and 7). Here each pair's likelihood is the mean over its tokens.
    """
    chosen, rejected = pairs.chosen / pairs.chosen_length, pairs.rejected / pairs.rejected_length
    return -chosen - beta * logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def _log_odds(logprob: Tensor) -> Tensor:
    return logprob - torch.log(-torch.expm1(logprob.clamp(max=-1e-9)))
