"""Log-probability of tokens, and entropy and collision of what they are drawn from, in bounded memory.

[tokens, vocabulary] is never held: logits exist for one chunk of tokens at a time, in forward and again in backward.
The output layer may be one rank's rows of a larger one; the vocabulary is never gathered then. The layer is
multiplied in fp32 whatever its type: a rounded logit is a rounded probability.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from penstock.memory_plan import HEAD_BYTES


def _chunk_logits(
    hidden: Tensor, weight: Tensor, target: Tensor, start: int, vocab: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled local fp32 logits of one chunk [c, v] (padding −inf), local target indices [c, m], and which are ours."""
    logits = torch.nn.functional.linear(hidden, weight).float().mul_(scale)
    size = weight.shape[0]
    if start + size > vocab:
        logits[:, max(vocab - start, 0) :] = float("-inf")
    ours = (target >= start) & (target < start + size)
    return logits, (target - start).clamp(0, size - 1), ours


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        rows: Tensor,
        weight: Tensor,
        target: Tensor,
        group: dist.ProcessGroup | None,
        vocab: int,
        temperature: float,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        head = weight.float()
        start = 0 if group is None else group.rank() * weight.shape[0]
        scale = 1.0 / temperature
        logprobs, normalisers, entropies, collisions = [], [], [], []
        for r, t in zip(rows.split(chunk), target.split(chunk), strict=True):
            h = hidden.index_select(0, r).to(head.dtype)
            z, index, ours = _chunk_logits(h, head, t, start, vocab, scale)
            top = z.max(-1).values
            if group is not None:
                dist.all_reduce(top, dist.ReduceOp.MAX, group=group)
            e = (z - top[:, None]).exp_()
            zt = z.gather(1, index).masked_fill(~ours, 0.0)
            ez = (e * z.masked_fill(z == float("-inf"), 0.0)).sum(-1)
            ee = torch.einsum("cv,cv->c", e, e)
            stats = torch.cat([e.sum(-1)[:, None], ez[:, None], ee[:, None], zt], 1)
            if group is not None:
                dist.all_reduce(stats, group=group)
            normaliser = stats[:, 0].log() + top
            logprobs.append(stats[:, 3:] - normaliser[:, None])
            normalisers.append(normaliser)
            entropies.append(normaliser - stats[:, 1] / stats[:, 0])
            collisions.append(stats[:, 2].log() - 2 * stats[:, 0].log())
        logprob, normaliser, entropy = torch.cat(logprobs), torch.cat(normalisers), torch.cat(entropies)
        collision = torch.cat(collisions)
        ctx.mark_non_differentiable(collision)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, rows, weight, target, normaliser, entropy)
        ctx.args = (start, vocab, scale, chunk)
        return logprob, entropy, collision

    @staticmethod
    def backward(ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None, _: Tensor | None) -> Any:
        hidden, rows, weight, target, normaliser, entropy = ctx.saved_tensors
        start, vocab, scale, chunk = ctx.args
        head = weight.float()
        grad_logprob = torch.zeros(target.shape, device=target.device) if grad_logprob is None else grad_logprob
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32)  # rows may repeat: they add up
        wanted = ctx.needs_input_grad[2]  # not where the base is frozen
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted else None
        for first in range(0, len(target), chunk):
            part = slice(first, first + chunk)
            h = hidden.index_select(0, rows[part]).to(head.dtype)
            z, index, ours = _chunk_logits(h, head, target[part], start, vocab, scale)
            logp = z.sub_(normaliser[part, None])
            p = logp.exp()
            grad = p * -grad_logprob[part].sum(-1, keepdim=True)
            grad.scatter_add_(1, index, grad_logprob[part] * ours)
            if grad_entropy is not None:  # dH/dz = −p (log p + H)
                grad -= p * (logp.masked_fill(p == 0, 0.0) + entropy[part, None]) * grad_entropy[part, None]
            grad = grad.mul_(scale).to(head.dtype)
            grad_hidden.index_add_(0, rows[part], (grad @ head).float())
            if grad_weight is not None:
                grad_weight.addmm_(grad.t(), h)  # no second [vocabulary, hidden]
        weight_gradient = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden.to(hidden.dtype), None, weight_gradient, None, None, None, None, None


def chunked_logprobs(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    vocab: int,
    *,
    temperature: float,
    chunk: int | None,
    group: dist.ProcessGroup | None = None,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of `target` [n, m] from the final hidden states [t, h] before it, entropies [n], and the
    log-probabilities [n] that two draws are the same, log Σ p², which have no gradient; fp32. rows: int64 [n], which of
    the hidden states is before each target, as often as it is (0 … n−1 if None).

    weight: the output layer [vocab, h]; with `group`, this rank's equal part of [padded vocab, h], `vocab` being the
    true size. The gradients of `hidden` are then partial sums. chunk: tokens whose logits exist at once; None: as many
    as fit into HEAD_BYTES. n may be 0.
    """
    chunk = chunk or max(1, HEAD_BYTES // (4 * len(weight)))
    rows = torch.arange(len(hidden), device=hidden.device) if rows is None else rows
    result: tuple[Tensor, Tensor, Tensor] = _TokenLogprobs.apply(
        hidden, rows, weight, target, group, vocab, temperature, chunk
    )
    return result
