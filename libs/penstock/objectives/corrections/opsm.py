"""Off-policy sequence masking: bad answers that the policy has moved away from are left alone."""

from torch import Tensor

from penstock.objectives.inputs import LossInputs, sequence_mean
from penstock.objectives.registry import off_policy_corrections


@off_policy_corrections("opsm")
def opsm(inputs: LossInputs, *, limit: float = 0.5) -> Tensor:
    """Off-policy sequence masking: w = 0 on a sequence with a negative advantage whose mean of g − c exceeds `limit`.

    A bad answer that the policy being trained has moved away from is not pushed further. Source: DeepSeek-V3.2 (2025,
    eq. 9), which names no limit. Default 0.5, which others start from too: small ones drop fresh samples for the noise
    between engine and learner alone.
    """
    drift = sequence_mean((inputs.behaviour - inputs.current).detach(), inputs)[inputs.sequence]
    dropped = (inputs.advantage < 0) & (drift > limit)
    return (~dropped).to(inputs.mask.dtype)
