"""GRPO: rewards standardised within their group."""

from torch import Tensor

from penstock.objectives.advantages.groups import EPSILON, by_group, centred
from penstock.objectives.registry import advantage_estimators


@advantage_estimators("grpo")
def grpo(rewards: Tensor, group: Tensor, valid: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """(r − mean) / (std + ε) within the group, unbiased std. Source: DeepSeekMath (Shao et al. 2024)."""
    g = by_group(rewards, group, valid)
    return centred(g) / (g.std + epsilon)
