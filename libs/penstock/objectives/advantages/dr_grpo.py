"""Dr. GRPO: rewards centred within their group, not divided."""

from torch import Tensor

from penstock.objectives.advantages.groups import by_group, centred
from penstock.objectives.registry import advantage_estimators


@advantage_estimators("dr_grpo")
def dr_grpo(rewards: Tensor, group: Tensor, valid: Tensor) -> Tensor:
    """r − mean within the group, no division. Source: Dr. GRPO (Liu et al. 2025)."""
    return centred(by_group(rewards, group, valid))
