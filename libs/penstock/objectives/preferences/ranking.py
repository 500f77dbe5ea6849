"""The loss of reward models: which of two answers is better, from one score each.

A group's answers are ranked by the data; every two whose ranks differ are a pair. A pair's loss depends on two scores
alone, so its gradient is a weight per answer (`preferences.answer_weights`), and the answers of a pair need not share a
micro-batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class RankedPairs(NamedTuple):
    """P pairs of answers of G groups. better, worse: int64 [P], which of N answers. group: int64 [P], 0 … groups−1.
    groups: G, those that have a pair."""

    better: Tensor
    worse: Tensor
    group: Tensor
    groups: int


def ranked_pairs(ranks: Tensor, groups: Tensor, min_margin: float = 0.0) -> RankedPairs:
    """Every pair within a group whose ranks differ by more than `min_margin`, the better one first.

    ranks: [N], larger is better. groups: [N] ids. Raises ValueError if there is no pair.
    """
    ahead = (ranks[:, None] - ranks[None, :] > min_margin) & (groups[:, None] == groups[None, :])
    better, worse = torch.nonzero(ahead).unbind(1)
    if not len(better):
        raise ValueError(f"no two of {len(ranks)} answers differ by more than {min_margin:g}")
    own, group = torch.unique(groups[better], return_inverse=True)
    return RankedPairs(better, worse, group, len(own))


def bradley_terry(scores: Tensor, pairs: RankedPairs, *, margin: float = 0.0, centring: float = 0.0) -> Tensor:
    """ℓ = −log σ(s_w − s_l − margin) + centring · (s_w + s_l)², the mean over a group's pairs; [G].

    A prompt counts once, however many answers it has: a mean over all pairs would weigh one with K answers K(K−1)/2
    times. Scores mean something only against each other; `centring` (0.01 is usual) pulls their mean to 0, which costs
    the order nothing. Scores that are all 0 give ln 2 (without margin). scores: [N] float64.

    Source: Bradley & Terry 1952; groups: InstructGPT (Ouyang et al. 2022, eq. 1); margin: Llama 2 (Touvron et al. 2023,
    eq. 2), here the same for all pairs; centring: Eisenstein et al. 2023. Defaults 0, 0.
    """
    better, worse = scores[pairs.better], scores[pairs.worse]
    losses = -logsigmoid(better - worse - margin) + centring * (better + worse).square()
    counts = torch.bincount(pairs.group, minlength=pairs.groups).to(losses)
    return losses.new_zeros(pairs.groups).index_add(0, pairs.group, losses) / counts
