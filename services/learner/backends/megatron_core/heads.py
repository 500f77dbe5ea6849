"""What the layer behind the final hidden states says: log-probability and entropy of tokens from Megatron's
vocabulary-sharded output layer, or one number per token from a head that scores.

Core's own vocab_parallel_cross_entropy counts padded vocabulary rows in the softmax and overwrites fp32 logits in
place; in `chunked_head` padding is −inf.

A head that scores is whole on every tensor rank, so every one computes all scores and the same gradient: nothing is
summed over tensor ranks, and under sequence parallelism each keeps its own slice of the hidden states' gradient.
"""

import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region, gather_from_sequence_parallel_region
from torch import Tensor

from services.learner.backends.common.chunked_head import chunked_logprobs


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    target: Tensor,
    group: dist.ProcessGroup,
    vocab: int,
    *,
    sequence_parallel: bool,
    temperature: float,
    chunk: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of `target` [n, m], entropies and collisions (see `chunked_logprobs`) at the positions `rows`
    [n] of the final hidden states.

    Args:
      hidden: [t, 1, h], or [t/tp, 1, h] under sequence parallelism.
      weight: [padded vocabulary / tp, h], this tensor rank's part of the output layer.
      rows: int64 [n], positions (0 … t−1) whose next token is wanted; equal on all tensor ranks. May be empty.
      group: the tensor-parallel group. vocab: true vocabulary size.
      chunk: tokens whose logits exist at once; None: as many as fit into HEAD_BYTES.
    Returns fp32 [n, m], [n] and [n], equal on every tensor rank.
    """
    if sequence_parallel:
        hidden = gather_from_sequence_parallel_region(hidden, True, group)
    else:
        hidden = copy_to_tensor_model_parallel_region(hidden, group)
    return chunked_logprobs(
        hidden[:, 0], weight, target, vocab, temperature=temperature, chunk=chunk, group=group, rows=rows
    )


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
    return F.linear(hidden[:, 0].float(), weight.float())[:, 0].index_select(0, rows)
