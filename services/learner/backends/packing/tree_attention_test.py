"""Attention over a tree equals one masked call over all of its tokens, outputs and gradients, for any tree."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.learner.backends.packing import tree_attention, zigzag
from services.learner.backends.packing.attention import attend_pack, attend_tree
from services.learner.backends.packing.packs import ALONE, Pack, Sharing, describe_pack

CPU = torch.device("cpu")
HEADS = [(4, 2, 8), (6, 1, 16), (4, 4, 32)]
"""Of queries, of keys, and their size."""


def random_tree(seed: int, alignment: int = 1) -> tuple[list[int], list[int]]:
    """Lengths and parents of up to twelve segments in depth-first order; those with children have no padding."""
    rng = np.random.default_rng(seed)
    parents: list[int] = []
    path: list[int] = []
    for i in range(int(rng.integers(2, 13))):
        while path and rng.random() < 0.4:
            path.pop()
        parents.append(path[-1] if path else -1)
        path.append(i)
    parents[1] = 0
    lengths = [int(rng.integers(1, 40)) for _ in parents]
    return [-(-n // alignment) * alignment if i in parents else n for i, n in enumerate(lengths)], parents


def described(lengths: list[int], parents: list[int], alignment: int = 1, sharing: Sharing = ALONE) -> Pack:
    return describe_pack(lengths, [-(-n // alignment) * alignment for n in lengths], CPU, sharing, parents)


def seen(pack: Pack, lengths: list[int], parents: list[int], window: int | None = None) -> Tensor:
    """bool [t, t], written out: which token sees which; padding sees itself."""
    bounds = pack.boundaries
    mask = torch.eye(bounds[-1], dtype=torch.bool)
    for i, n in enumerate(lengths):
        own = slice(bounds[i], bounds[i] + n)
        mask[own, own] = torch.ones(n, n, dtype=torch.bool).tril()
        above = parents[i]
        while above >= 0:
            mask[own, bounds[above] : bounds[above] + lengths[above]] = True
            above = parents[above]
    if window is not None:
        mask &= pack.positions[:, None] - pack.positions < window
    return mask


def is_token(pack: Pack, lengths: list[int]) -> Tensor:
    found = torch.zeros(pack.boundaries[-1])
    for start, n in zip(pack.boundaries, lengths, strict=False):
        found[start : start + n] = 1.0
    return found


def given_tensors(tokens: int, heads: tuple[int, int, int], seed: int) -> list[Tensor]:
    """q, k, v, and the weights of a loss."""
    generator = torch.Generator().manual_seed(seed)
    of_queries, of_keys, size = heads
    made = [torch.randn(tokens, h, size, generator=generator) for h in (of_queries, of_keys, of_keys, of_queries)]
    return [x.requires_grad_(i < 3) for i, x in enumerate(made)]


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)


def check_equal(out: Tensor, expected: Tensor, weight: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(out * (weight != 0), expected * (weight != 0), rtol=1e-4, atol=3e-5)
    ours = torch.autograd.grad((out * weight).sum(), leaves)
    theirs = torch.autograd.grad((expected * weight).sum(), leaves)
    for name, a, b in zip("qkv", ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=5e-5, msg=lambda m, name=name: f"{name}: {m}")


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    heads=st.sampled_from(HEADS),
    alignment=st.sampled_from([1, 8]),
    window=st.sampled_from([None, 1, 7, 30, 1000]),
)
def test_a_tree_attends_as_one_masked_call(
    seed: int, heads: tuple[int, int, int], alignment: int, window: int | None
) -> None:
    alignment = alignment if window is None else 1  # what is padded has no windows
    lengths, parents = random_tree(seed, alignment)
    pack = described(lengths, parents, alignment)
    assert pack.parts
    q, k, v, weight = given_tensors(pack.boundaries[-1], heads, seed)
    weight = weight * is_token(pack, lengths)[:, None, None]
    expected = masked(q, k, v, seen(pack, lengths, parents, window))
    check_equal(attend_pack(q, k, v, pack, None, window), expected, weight, [q, k, v])


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), window=st.sampled_from([1, 3, 7, 30]))
def test_no_part_has_what_nobody_sees_of_it(seed: int, window: int) -> None:
    """So that work grows with the window, and not with the square of a sequence; each key is seen by some query."""
    pack = described(*random_tree(seed))
    for part in pack.within(window):
        queries, keys = (rows.take(pack.positions)[0] for rows in (part.queries, part.keys))
        assert part.reach >= int(queries.max() - keys.min())
        if part.causal:
            assert part.queries.length <= window
        else:
            distance = queries[:, None] - keys
            sees = (distance >= 0) & (distance < window)
            assert sees.any(0).all() and sees.any(1).all()


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), heads=st.sampled_from(HEADS), ranks=st.sampled_from([2, 3]))
def test_context_ranks_attend_to_their_part_of_it(seed: int, heads: tuple[int, int, int], ranks: int) -> None:
    """Each with its zigzag queries, and the keys of all."""
    alignment = 2 * ranks
    lengths, parents = random_tree(seed, alignment)
    packs = [described(lengths, parents, alignment, Sharing(ranks, rank, False)) for rank in range(ranks)]
    q, k, v, weight = given_tensors(packs[0].boundaries[-1], heads, seed)
    weight = weight * is_token(packs[0], lengths)[:, None, None]
    outs = [
        attend_tree(q[zigzag.local_index(pack.boundaries, ranks, rank)], k, v, pack, None)
        for rank, pack in enumerate(packs)
    ]
    natural = packs[0].natural
    assert natural is not None
    expected = masked(q, k, v, seen(packs[0], lengths, parents))
    check_equal(torch.cat(outs)[natural], expected, weight, [q, k, v])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_types_keep_their_type(dtype: torch.dtype) -> None:
    lengths, parents = random_tree(3)
    pack = described(lengths, parents)
    q, k, v, weight = (x.detach().to(dtype).requires_grad_() for x in given_tensors(sum(lengths), HEADS[0], 3))
    out = attend_pack(q, k, v, pack, None)
    gradients = torch.autograd.grad((out * weight).sum(), [q, k, v])
    assert {x.dtype for x in (out, *gradients)} == {dtype}
    expected = masked(q, k, v, seen(pack, lengths, parents))
    torch.testing.assert_close(out, expected, rtol=2e-2, atol=2e-2)


def test_positions_are_those_of_the_own_sequence() -> None:
    pack = describe_pack([4, 3, 2, 2], [4, 4, 2, 2], CPU, parents=[-1, 0, 0, -1])
    assert pack.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 4, 5, 0, 1]


def test_no_mask_is_made_where_all_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where a window is as long as any sequence."""
    kinds: list[Any] = []
    attend = tree_attention.attend_parts

    def noted(q: Tensor, k: Tensor, v: Tensor, parts: Any, seen: Any) -> Tensor:
        kinds.extend(s.mask for s in seen)
        return attend(q, k, v, parts, seen)

    monkeypatch.setattr("services.learner.backends.packing.attention.attend_parts", noted)
    pack = described([20, 5, 5], [-1, 0, 0])
    q, k, v, _ = given_tensors(30, HEADS[0], 1)
    for window in (None, 25):
        attend_pack(q, k, v, pack, None, window)
    assert kinds and all(mask is None for mask in kinds)
    attend_pack(q, k, v, pack, None, 24)
    assert any(mask is not None for mask in kinds)


@pytest.mark.parametrize("without", ["a rectangle", "a causal part"])
def test_each_part_is_needed(without: str) -> None:
    """What the tests above would not see they would not hold: with one part left out, numbers are others."""
    lengths, parents = [9, 4, 6, 5], [-1, 0, 0, 2]
    pack = described(lengths, parents)
    q, k, v, _ = given_tensors(sum(lengths), HEADS[0], 1)
    right = attend_pack(q, k, v, pack, None)
    for part in (p for p in pack.parts if p.causal == (without == "a causal part")):
        fewer = replace(pack, parts=[p for p in pack.parts if p is not part])
        assert not torch.allclose(attend_pack(q, k, v, fewer, None).nan_to_num(), right, atol=1e-3)
