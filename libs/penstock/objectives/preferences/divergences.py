"""f-DPO: which divergence from the reference a preference loss is the solution of; DPO's own is the reverse KL.

With t = policy / reference of an answer, a loss sees f'(t) where DPO's sees log t: all are 0 at the reference, so the
first step is the same. Source: f-DPO (Wang et al. 2023, table 1).
"""

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from penstock.objectives.inputs import LOG_RATIO_LIMIT

Kind = Literal["reverse_kl", "forward_kl", "js", "alpha"]


def reverse_kl(gain: Tensor) -> Tensor:
    """log t: DPO."""
    return gain


def forward_kl(gain: Tensor) -> Tensor:
    """1 − 1/t: an answer that became rare counts more and more."""
    return 1 - (-gain).clamp(max=LOG_RATIO_LIMIT).exp()


def js(gain: Tensor) -> Tensor:
    """log(2t / (1 + t)), of Jensen and Shannon: what an answer can gain is bounded by log 2."""
    return math.log(2) + logsigmoid(gain)


def alpha(gain: Tensor, order: float) -> Tensor:
    """(t^(α−1) − 1) / (α − 1); α → 1 is the reverse KL, α = 0 the forward one."""
    if order == 1:
        return gain
    return (((order - 1) * gain).clamp(max=LOG_RATIO_LIMIT).exp() - 1) / (order - 1)


def divergence(kind: Kind, order: float | None = None) -> Callable[[Tensor], Tensor]:
    """f' of log t. Raises ValueError for `alpha` without an order."""
    if kind != "alpha":
        return {"reverse_kl": reverse_kl, "forward_kl": forward_kl, "js": js}[kind]
    if order is None:
        raise ValueError("divergence alpha needs its order")
    return lambda gain: alpha(gain, order)
