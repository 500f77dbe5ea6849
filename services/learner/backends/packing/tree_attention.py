"""Attention over a pack that is a tree: the parts of what a token sees, joined.

    out(token) = own segment, causal   ⊕   ancestor 1, full   ⊕   ancestor 2, full   …

⊕ joins softmaxes over disjoint keys by their log-sum-exps, as ring attention does (Liu et al. 2023). Backward needs no
more than each part's own backward kernel, given the joined output and log-sum-exp. So no key or value is copied for a
descendant, and no mask of tokens × tokens exists.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from services.learner.backends.packing.kernels import Attending
from services.learner.backends.packing.parts import Part


def attend_parts(q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], seen: Sequence[Attending]) -> Tensor:
    """q [t, heads, d], k and v [s, kv heads, d] -> [t, heads, d].

    parts: which queries see which keys; each query's causal part comes first. seen: how each part attends.
    On a CPU in fp32 always, as `attention.attend`.
    """
    dtype = q.dtype
    if q.device.type == "cpu":
        q, k, v = q.float(), k.float(), v.float()
    out: Tensor = _Joined.apply(q, k, v, parts, seen)
    return out.to(dtype)


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], seen: Sequence[Attending]) -> Tensor:
        repeat = q.shape[1] // k.shape[1]
        out = torch.zeros(*q.shape[:2], v.shape[2], device=q.device)
        lse = torch.full(q.shape[:2], -torch.inf, device=q.device)
        rests = []
        for part, how in zip(parts, seen, strict=True):
            keys = (_of_keys(part.keys.take(x), repeat, part.causal) for x in (k, v))
            found, said, rest = how.forward(_of_queries(part.queries.take(q), repeat, part.causal), *keys)
            found, said = (_as_rows(x, part.queries.length, part.causal) for x in (found.float(), said[..., None]))
            if not part.causal:
                before = part.queries.take(lse)[..., None]
                both = torch.logaddexp(before, said)
                found = part.queries.take(out) * (before - both).exp() + found * (said - both).exp()
                said = both
            part.queries.put(out, found)
            part.queries.put(lse, said[..., 0])
            rests.append(rest)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.parts, ctx.seen, ctx.rests = parts, seen, rests
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (grad,) = gradients
        q, k, v, out, lse = ctx.saved_tensors
        repeat = q.shape[1] // k.shape[1]
        sums = [torch.zeros(x.shape, device=x.device) for x in (q, k, v)]
        for part, how, rest in zip(ctx.parts, ctx.seen, ctx.rests, strict=True):
            queries = [
                _of_queries(x, repeat, part.causal)
                for x in (part.queries.take_kept(grad), part.queries.take(q), part.queries.take(out))
            ]
            keys = [_of_keys(part.keys.take(x), repeat, part.causal).contiguous() for x in (k, v)]
            said = _of_queries(part.queries.take(lse)[..., None], repeat, part.causal)[..., 0].contiguous()
            dq, dk, dv = how.backward(queries[0], queries[1], *keys, queries[2], said, rest)
            part.queries.add(sums[0], _as_rows(dq.float(), part.queries.length, part.causal))
            for total, found in zip(sums[1:], (dk, dv), strict=True):
                part.keys.add(total, _as_keys(found.float(), repeat, part.causal))
        return *(total.to(x.dtype) for total, x in zip(sums, (q, k, v), strict=True)), None, None


# Query heads that share a KV head: where all see all they are further queries of it, and no key is repeated. Where each
# sees those up to its own place, a key is repeated for each of them, as torch does it.


def _of_queries(x: Tensor, repeat: int, causal: bool) -> Tensor:
    """[n, l, heads, d] -> [n, heads, l, d], or [n, kv heads, repeat · l, d]."""
    n, length, heads, size = x.shape
    if causal:
        return x.transpose(1, 2).contiguous()
    grouped = x.view(n, length, heads // repeat, repeat, size).permute(0, 2, 3, 1, 4)
    return grouped.reshape(n, heads // repeat, repeat * length, size)


def _as_rows(x: Tensor, length: int, causal: bool) -> Tensor:
    """The reverse, of queries `length` long."""
    if causal:
        return x.transpose(1, 2)
    n, groups, rows, size = x.shape
    apart = x.view(n, groups, rows // length, length, size).permute(0, 3, 1, 2, 4)
    return apart.reshape(n, length, groups * (rows // length), size)


def _of_keys(x: Tensor, repeat: int, causal: bool) -> Tensor:
    """[n, l, kv heads, d] -> [n, heads, l, d], or [n, kv heads, l, d]."""
    x = x.transpose(1, 2)
    return x.repeat_interleave(repeat, 1) if causal else x


def _as_keys(x: Tensor, repeat: int, causal: bool) -> Tensor:
    """The reverse of a gradient."""
    if causal:
        x = x.view(x.shape[0], -1, repeat, *x.shape[2:]).sum(2)
    return x.transpose(1, 2)
