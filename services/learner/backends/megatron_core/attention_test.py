"""Packed attention equals attention of each sequence alone; zigzag cuts and joins without loss."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from services.learner.backends.megatron_core import cpu as megatron_cpu
from services.learner.backends.megatron_core.attention import PackedSequences, TorchAttention
from services.learner.backends.packing import zigzag
from services.learner.backends.packing.packs import describe_pack

megatron_cpu.install()


class _Alone:
    """A context group of one rank."""

    def size(self) -> int:
        return 1


class _Groups:
    cp = _Alone()


class _Config:
    attention_dropout = 0.0


def attention() -> TorchAttention:
    return TorchAttention(_Config(), 1, None, "self", pg_collection=_Groups())


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12), seed=st.integers(0, 5))
def test_a_pack_attends_as_its_sequences_alone(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (sum(lengths), 4, 8)
    q = torch.randn(shape, generator=generator, requires_grad=True)
    k, v = (torch.randn(shape[0], 2, 8, generator=generator, requires_grad=True) for _ in range(2))
    cpu = torch.device("cpu")
    packed = PackedSequences.of(describe_pack(lengths, lengths, cpu), cpu)
    out = attention()(q, k, v, None, packed_seq_params=packed)
    alone = torch.cat(
        [
            F.scaled_dot_product_attention(
                aq.transpose(0, 1), ak.transpose(0, 1), av.transpose(0, 1), is_causal=True, enable_gqa=True
            )
            .transpose(0, 1)
            .reshape(len(aq), 1, -1)
            for aq, ak, av in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
        ]
    )
    torch.testing.assert_close(out, alone)
    weight = torch.randn(out.shape, generator=generator)
    ours = torch.autograd.grad((out * weight).sum(), (q, k, v), retain_graph=True)
    theirs = torch.autograd.grad((alone * weight).sum(), (q, k, v))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@settings(deadline=None)
@given(chunks=st.lists(st.integers(1, 5), min_size=1, max_size=6), n=st.integers(1, 4))
def test_zigzag_parts_join_to_natural_order(chunks: list[int], n: int) -> None:
    bounds = [0]
    for chunk in chunks:
        bounds.append(bounds[-1] + 2 * n * chunk)
    parts = [zigzag.local_index(bounds, n, rank) for rank in range(n)]
    assert {len(p) for p in parts} == {bounds[-1] // n}, "ranks hold equally many tokens"
    assert torch.equal(torch.cat(parts)[zigzag.join_index(bounds, n)], torch.arange(bounds[-1]))


def test_zigzag_example() -> None:
    assert zigzag.local_index([0, 8], 2, 0).tolist() == [0, 1, 6, 7]
    assert zigzag.local_index([0, 8], 2, 1).tolist() == [2, 3, 4, 5]


def test_dropout_is_refused() -> None:
    class WithDropout:
        attention_dropout = 0.1

    with pytest.raises(ValueError, match="dropout"):
        TorchAttention(WithDropout(), 1, None, "self", pg_collection=_Groups())
