"""What a loss sees: flat per-token tensors of whole sequences, whatever packing or parallelism produced them.

The learner gathers log-probabilities over context-parallel ranks before it calls an objective, so a sequence is never
cut: sequence-level ratios need no communication here, and one formula serves every layout.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Log-ratios between policies are clamped to ± this before exp: beyond it there is nothing left to tell apart."""


@dataclass(frozen=True)
class LossInputs:
    """Tokens of one micro-batch. T tokens, S sequences; log-probabilities in nats, fp32.

    Attributes:
      current: [T] log-prob under the weights being trained; carries the gradient.
      proximal: [T] log-prob under the learner's policy at the start of the step (`p`), no gradient.
      behaviour: [T] log-prob reported by the generation engine (`g`), no gradient; 0 where the mask is 0.
      advantage: [T] advantage of the token.
      mask: [T] 1.0 for trained tokens, else 0.0 (token mask times sample mask).
      sequence: [T] int64, sequence of each token, 0 … sequences-1.
      sequences: S.
      reference: [T] log-prob under the reference policy, or None where no KL term is used.
    """

    current: Tensor
    proximal: Tensor
    behaviour: Tensor
    advantage: Tensor
    mask: Tensor
    sequence: Tensor
    sequences: int
    reference: Tensor | None = None


class TokenLoss(NamedTuple):
    """A policy loss before weighting: `values` [T] with gradient; `clipped` [T] bool, tokens whose gradient the trust
    region removed or capped (for diagnostics; may be set outside the mask)."""

    values: Tensor
    clipped: Tensor


def sequence_sum(values: Tensor, inputs: LossInputs) -> Tensor:
    """[T] -> [S]: sum over the trained tokens of each sequence, differentiable."""
    kept = (values * inputs.mask).masked_fill(inputs.mask == 0, 0.0)  # not 0 * inf
    return values.new_zeros(inputs.sequences).index_add(0, inputs.sequence, kept)


def sequence_mean(values: Tensor, inputs: LossInputs) -> Tensor:
    """[T] -> [S]: mean over the trained tokens of each sequence; 0 for a sequence without any."""
    return sequence_sum(values, inputs) / sequence_sum(inputs.mask, inputs).clamp(min=1.0)
