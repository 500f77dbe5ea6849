"""Layouts that cannot work are refused with field, value and limit, before any process group exists."""

import dataclasses
from typing import Any

import pytest
from pydantic import ValidationError

from penstock.recipes.sections import Parallel as P
from services.learner.backends.megatron_core import cpu as megatron_cpu
from services.learner.backends.megatron_core.layout import check_ranks
from services.learner.huggingface.config import Experts, ModelConfig
from services.learner.interface.errors import LayoutError

megatron_cpu.install()

MODEL = ModelConfig("Qwen3ForCausalLM", 251, 64, 192, 6, 12, 3, 32, 256, 1e-6, False, False, True, 1e4, None)
MIXTURE = dataclasses.replace(
    MODEL, num_kv_heads=4, experts=Experts(number=6, per_token=2, intermediate_size=48, normalised=True)
)


@pytest.mark.parametrize(
    ("parallel", "world", "message"),
    [
        (P(tensor=2, pipeline=2), 6, "2 × 2 × 1 = 4 must divide the number of learner ranks, 6"),
        (P(sequence_parallel=True), 1, "parallel.sequence_parallel needs parallel.tensor > 1"),
        (P(tensor=8), 8, "parallel.tensor = 8 must divide the model's num_attention_heads = 12"),
        (P(tensor=2), 2, "parallel.tensor = 2 must divide the model's num_key_value_heads = 3"),
        (P(virtual_stages=2), 1, "parallel.virtual_stages = 2 needs parallel.pipeline > 1"),
        (
            P(pipeline=2, virtual_stages=2),
            2,
            "pipeline × virtual_stages = 2 × 2 must divide the model's num_hidden_layers = 6",
        ),
        (
            P(tensor=3, context=3, context_attention="ulysses"),
            9,
            "context = 3 with context_attention = ulysses must divide the heads of a tensor rank, 12 / 3 = 4; use",
        ),
        (P(expert=2), 2, "parallel.expert = 2 is for experts, and Qwen3ForCausalLM has none; use 1"),
        (P(pipeline=4), 4, "parallel.pipeline = 4 must divide the model's num_hidden_layers = 6"),
    ],
)
def test_refusals(parallel: P, world: int, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        check_ranks(parallel, world, MODEL)


@pytest.mark.parametrize(
    ("parallel", "world", "message"),
    [
        (P(expert=4), 4, "parallel.expert = 4 must divide the model's num_experts, 6"),
        (P(expert=2), 3, "parallel.expert = 2 must divide the ranks of a pipeline stage, 3"),
        (
            P(tensor=2),
            2,
            "needs parallel.sequence_parallel .it is False. and parallel.expert > 1 .it is 1.; use expert = 2",
        ),
        (P(tensor=2, expert=2), 2, "needs parallel.sequence_parallel .it is False."),
    ],
)
def test_refusals_for_a_mixture_of_experts(parallel: P, world: int, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        check_ranks(parallel, world, MIXTURE)


@pytest.mark.parametrize(("parallel", "world"), [(P(), 7), (P(tensor=3), 3), (P(tensor=3, pipeline=2, context=5), 30)])
def test_what_fits_is_accepted(parallel: P, world: int) -> None:
    check_ranks(parallel, world, MODEL)


@pytest.mark.parametrize("wrong", [{"tensor": 0}, {"virtual_stages": 0}, {"overlap_bucket": -1}])
def test_sizes_below_one_are_no_recipe(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        P(**wrong)
