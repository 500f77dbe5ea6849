"""Off-policy sequence masking: bad answers that the policy has moved away from are left alone."""

from torch import Tensor

from penstock.objectives.inputs import LossInputs, sequence_mean
from penstock.objectives.registry import off_policy_corrections


@off_policy_corrections("opsm")
def opsm(inputs: LossInputs, *, limit: float = 1e-4) -> Tensor:
    """Off-policy sequence masking: w = 0 on a sequence with a negative advantage whose mean of g − p exceeds `limit`.

    A bad answer that the policy has already moved away from is not pushed further. Source: DeepSeek-V3.2 (2025, section
    3.1). Default 1e-4.
    """
    drift = sequence_mean((inputs.behaviour - inputs.proximal).detach(), inputs)[inputs.sequence]
    dropped = (inputs.advantage < 0) & (drift > limit)
    return (~dropped).to(inputs.mask.dtype)
