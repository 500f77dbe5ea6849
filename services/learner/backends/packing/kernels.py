"""Attention that also says its log-sum-exp, and its backward pass for a result that others were joined to.

torch's own kernels, called below `scaled_dot_product_attention`, which keeps the log-sum-exp to itself:

    CPU                     flash, fp32
    CUDA, bf16 and fp16     flash; under a mask, or with heads of a size that it does not take: efficient
    CUDA, fp32              efficient
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten
_ALIGNED = 32
"""The efficient kernel's log-sum-exps are stored in multiples of so many."""


@dataclass(frozen=True)
class Attending:
    """One call. causal: as many queries as keys, each sees those up to its own. mask: bool [queries, keys], or all
    see all. scale: of the scores; 1 / √d if None."""

    causal: bool
    mask: Tensor | None
    scale: float | None

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
        """q [b, h, sq, d], k and v [b, h, sk, d] -> output like q, log-sum-exp fp32 [b, h, sq] (−inf and output 0 where
        a query sees no key), and what `backward` wants of this call."""
        bias = self._bias(q)
        if q.device.type == "cpu":
            out, lse = aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, 0.0, self.causal, attn_mask=bias, scale=self.scale
            )
            rest: tuple[Any, ...] = ()
        elif self._flash(q):
            out, lse, *rest_, _ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, self.causal, scale=self.scale)
            rest = tuple(rest_)
        else:
            out, lse, *rest_ = aten._scaled_dot_product_efficient_attention(
                q, k, v, bias, True, 0.0, self.causal, scale=self.scale
            )
            lse, rest = lse[:, :, : q.shape[2]], tuple(rest_)
        if self.mask is not None:
            blind = ~self.mask.any(1)
            out, lse = out.masked_fill(blind[:, None], 0.0), lse.masked_fill(blind, -torch.inf)
        return out, lse, rest

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rest: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and v; `out` and `lse` of all parts joined, rest of this one's forward call."""
        bias = self._bias(q)
        if q.device.type == "cpu":
            found = aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad, q, k, v, out, lse, 0.0, self.causal, attn_mask=bias, scale=self.scale
            )
        elif self._flash(q):
            cum_q, cum_k, max_q, max_k, seed, offset = rest
            found = aten._scaled_dot_product_flash_attention_backward(
                grad, q, k, v, out, lse, cum_q, cum_k, max_q, max_k, 0.0, self.causal, seed, offset, scale=self.scale
            )
        else:
            lse = F.pad(lse, (0, -lse.shape[2] % _ALIGNED), value=torch.inf)
            found = aten._scaled_dot_product_efficient_attention_backward(
                grad, q, k, v, bias, out, lse, *rest, 0.0, [True, True, True, False], self.causal, scale=self.scale
            )
        dq, dk, dv = found[:3]
        return dq, dk, dv

    def _flash(self, q: Tensor) -> bool:
        size = q.shape[3]
        return q.dtype != torch.float32 and self.mask is None and size % 8 == 0 and size <= 256

    def _bias(self, q: Tensor) -> Tensor | None:
        """The mask as what is added to scores, in rows of aligned length."""
        if self.mask is None:
            return None
        keys = self.mask.shape[1]
        hidden = F.pad(~self.mask, (0, -keys % 16))
        bias = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device).masked_fill(hidden, -torch.inf)
        return bias[:, :keys].expand(*q.shape[:3], keys)
