"""M2PO: the few tokens that carry the variance of the whole batch are dropped."""

import torch
from torch import Tensor

from penstock.objectives.inputs import LossInputs
from penstock.objectives.registry import off_policy_corrections


@off_policy_corrections("m2po")
def m2po(inputs: LossInputs, *, limit: float = 0.04) -> Tensor:
    """Masks (w = 0) the trained tokens of the batch with the largest (p − g)² until the mean of the rest is <= `limit`.

    Only the few tokens that carry the variance are dropped, however stale the batch. It judges tokens against each
    other, so it must see the whole batch (see WHOLE_BATCH). Source: M2PO (Zheng et al. 2025). Default 0.04.
    """
    square = (inputs.proximal - inputs.behaviour).detach().to(torch.float64).square()
    trained = torch.nonzero(inputs.mask > 0)[:, 0]
    order = trained[torch.argsort(square[trained], stable=True)]
    means = square[order].cumsum(0) / torch.arange(1, len(order) + 1, device=order.device)
    weight = torch.zeros_like(inputs.mask)
    weight[order[means <= limit]] = 1.0  # running means of rising values rise: this is a prefix
    return weight
