"""Training the undecided tokens alone: where the policy has one way to go there is little to learn."""

import torch
from torch import Tensor


def undecided(entropy: Tensor, mask: Tensor, share: float) -> Tensor:
    """[T]: 1 for the `share` of the batch's trained tokens with the largest entropy, else 0; ties at the bound count.

    At least one token is kept where any is trained. entropy: [T] in nats, at the start of the step; mask: [T]. Source:
    "Beyond the 80/20 rule" (Wang et al. 2025), which takes 0.2. The entropy is of the whole batch's tokens, so it does
    not matter how the batch is cut. Raises ValueError unless 0 < share ≤ 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"need 0 < share <= 1, got {share}")
    trained = entropy[mask > 0]
    if not len(trained):
        return torch.zeros_like(mask)
    least = trained.sort(descending=True).values[max(1, round(share * len(trained))) - 1]
    return ((entropy >= least) & (mask > 0)).to(mask.dtype)
