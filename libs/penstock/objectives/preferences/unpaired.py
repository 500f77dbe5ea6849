"""KTO: a preference loss of single answers. It takes other data than the rest, so it is in no registry."""

import torch
from torch import Tensor


def kto(current: Tensor, reference: Tensor, liked: Tensor, baseline: Tensor | float, *, beta: float = 0.1) -> Tensor:
    """ℓ [N] = 1 − σ(β(c − r) − z) for liked answers, 1 − σ(z − β(c − r)) for the others; z = max(0, β·baseline).

    current, reference, liked (bool): [N] per answer. baseline: estimate of KL(policy ‖ reference), a mean of c − r over
    answers put to prompts they do not belong to; it carries no gradient. Source: KTO (Ethayarajh et al. 2024, eq. 8),
    with equal weights for both kinds.
    """
    z = (beta * torch.as_tensor(baseline, dtype=current.dtype)).clamp(min=0.0).detach()
    value = beta * (current - reference) - z
    return 1 - torch.sigmoid(torch.where(liked, value, -value))
