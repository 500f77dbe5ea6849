"""One number per token from a linear head on the final hidden states: what a reward model says, or a critic.

The head is whole on every tensor rank, so every one computes all scores and the same gradient: nothing is summed over
tensor ranks, and under sequence parallelism each keeps its own slice of the hidden states' gradient.
"""

import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from torch import Tensor


def token_scores(
    hidden: Tensor, weight: Tensor, rows: Tensor, group: dist.ProcessGroup, *, sequence_parallel: bool
) -> Tensor:
    """weight · hidden at the positions `rows` [n] of the final hidden states, fp32 [n], equal on every tensor rank.

    Args:
      hidden: [t, 1, h], or [t/tp, 1, h] under sequence parallelism. weight: [1, h].
      rows: int64 [n], positions (0 … t−1); equal on all tensor ranks. May be empty. group: the tensor-parallel group.
    """
    if sequence_parallel:
        hidden = gather_from_sequence_parallel_region(hidden, False, group)
    return F.linear(hidden[:, 0].index_select(0, rows).float(), weight.float())[:, 0]
