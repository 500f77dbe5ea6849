"""The divergence between a policy and a teacher at one position, from the teacher's likeliest tokens."""

from typing import Literal

import torch
from torch import Tensor

LEAST = 1e-6
"""Probability that the tokens beyond the top ones have at least: its logarithm stays finite."""

Kind = Literal["reverse", "forward"]


def top_divergence(policy: Tensor, teacher: Tensor, kind: Kind) -> Tensor:
    """[n]: KL(policy ‖ teacher) (`reverse`) or KL(teacher ‖ policy) (`forward`) over k tokens and the rest as one more.

    With q, p the probabilities of the teacher's k likeliest tokens and q₀, p₀ = 1 − Σ: Σ q (log q − log p) + q₀ (log q₀
    − log p₀), or the same with q and p changed over. Never negative, never more than the whole KL (data-processing
    inequality), equal to it for k = the vocabulary; so no probability is renormalised. Unlike NeMo RL, which drops what
    is beyond the top tokens or sets it to zero, mass that the policy puts elsewhere is charged for.
    Source: GKD (Agarwal et al. 2023) for both directions on the student's own samples.

    policy, teacher: [n, k] log-probabilities, gradient through policy.
    """
    q, p = policy.exp(), teacher.exp()
    q_rest, p_rest = ((1.0 - x.sum(-1)).clamp(min=LEAST) for x in (q, p))
    if kind == "reverse":
        return (q * (policy - teacher)).sum(-1) + q_rest * (torch.log(q_rest) - torch.log(p_rest))
    return (p * (teacher - policy)).sum(-1) + p_rest * (torch.log(p_rest) - torch.log(q_rest))
