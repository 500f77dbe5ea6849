"""Either form of context-parallel attention equals attention of each sequence alone, gradients included."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from services.learner.backends.megatron_core import cpu as megatron_cpu
from services.learner.backends.megatron_core.context_attention import gather, ulysses
from services.learner.backends.packing import zigzag
from services.learner.backends.packing.packs import Sharing, describe_pack
from services.learner.testing.forked_ranks import run_ranks

megatron_cpu.install()

FORMS = {"gather": gather, "ulysses": ulysses}
SIZE = 8
# in units of two chunks a rank
PACKS = {"one": [3], "equal": [2, 2, 2], "mixed": [1, 4, 2, 9, 4, 1, 1]}


def _given(lengths: list[int], heads: int, kv_heads: int) -> list[Tensor]:
    """q, k, v and the weights of a loss."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(sum(lengths), h, SIZE, generator=generator) for h in (heads, kv_heads, kv_heads, heads)]


def _alone(lengths: list[int], heads: int, kv_heads: int) -> list[Tensor]:
    q, k, v, weight = _given(lengths, heads, kv_heads)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    parts = zip(*(x.split(lengths) for x in leaves), strict=True)
    out = torch.cat(
        [
            F.scaled_dot_product_attention(
                q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), is_causal=True, enable_gqa=True
            ).transpose(0, 1)
            for q, k, v in parts
        ]
    )
    return [out, *torch.autograd.grad((out * weight).sum(), leaves)]


def _shared(form: str, lengths: list[int], heads: int, kv_heads: int) -> list[Tensor]:
    group = dist.group.WORLD
    n, rank = dist.get_world_size(), dist.get_rank()
    pack = describe_pack(lengths, lengths, torch.device("cpu"), Sharing(n, rank, form == "ulysses"))
    own = zigzag.local_index(pack.boundaries, n, rank)
    q, k, v, weight = (x[own] for x in _given(lengths, heads, kv_heads))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = FORMS[form](q, k, v, pack, group, None)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize(
    ("n", "heads", "kv_heads"),
    [(2, 4, 4), (2, 4, 2), (2, 4, 1), (2, 6, 3), (3, 12, 2)],
    ids=["as many", "grouped", "fewer", "not shared out", "three ranks"],
)
@pytest.mark.parametrize("form", FORMS)
def test_ranks_together_attend_as_one(form: str, n: int, heads: int, kv_heads: int, pack: str) -> None:
    lengths = [2 * n * units for units in PACKS[pack]]
    expected = _alone(lengths, heads, kv_heads)
    bounds = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    results: list[Any] = run_ranks(n, _shared, form, lengths, heads, kv_heads)
    for rank, got in enumerate(results):
        own = zigzag.local_index(bounds, n, rank)
        for name, ours, theirs in zip(("output", "q", "k", "v"), got, expected, strict=True):
            torch.testing.assert_close(ours, theirs.detach()[own], msg=lambda m, name=name: f"{name}: {m}")
